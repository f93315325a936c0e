// Original file: proto/expertmesh/v1/inference.proto

import type { TokenIds as _expertmesh_v1_TokenIds, TokenIds__Output as _expertmesh_v1_TokenIds__Output } from '../../expertmesh/v1/TokenIds.ts';
import type { Long } from '@grpc/proto-loader';

export interface GenerateRequest {
  'model'?: (string);
  'prompt'?: (string);
  'prompt_ids'?: (_expertmesh_v1_TokenIds | null);
  'max_tokens'?: (number);
  'min_tokens'?: (number);
  'temperature'?: (number | string);
  'top_p'?: (number | string);
  'top_k'?: (number);
  'min_p'?: (number | string);
  'seed'?: (number | string | Long);
  'repetition_penalty'?: (number | string);
  'presence_penalty'?: (number | string);
  'frequency_penalty'?: (number | string);
  'logit_bias'?: ({[key: number]: number | string});
  'stop'?: (string)[];
  'stop_token_ids'?: (number)[];
  'ignore_eos'?: (boolean);
  'logprobs'?: (number);
  'logits_sha256'?: (boolean);
  'num_beams'?: (number);
  'length_penalty'?: (number | string);
  'early_stopping'?: (string);
  'no_repeat_ngram_size'?: (number);
  'input'?: "prompt"|"prompt_ids";
  '_temperature'?: "temperature";
  '_top_p'?: "top_p";
  '_top_k'?: "top_k";
  '_min_p'?: "min_p";
  '_seed'?: "seed";
  '_repetition_penalty'?: "repetition_penalty";
  '_presence_penalty'?: "presence_penalty";
  '_frequency_penalty'?: "frequency_penalty";
  '_logprobs'?: "logprobs";
  '_num_beams'?: "num_beams";
  '_length_penalty'?: "length_penalty";
  '_early_stopping'?: "early_stopping";
  '_no_repeat_ngram_size'?: "no_repeat_ngram_size";
}

export interface GenerateRequest__Output {
  'model': (string);
  'prompt'?: (string);
  'prompt_ids'?: (_expertmesh_v1_TokenIds__Output | null);
  'max_tokens': (number);
  'min_tokens': (number);
  'temperature'?: (number);
  'top_p'?: (number);
  'top_k'?: (number);
  'min_p'?: (number);
  'seed'?: (number);
  'repetition_penalty'?: (number);
  'presence_penalty'?: (number);
  'frequency_penalty'?: (number);
  'logit_bias': ({[key: number]: number});
  'stop': (string)[];
  'stop_token_ids': (number)[];
  'ignore_eos': (boolean);
  'logprobs'?: (number);
  'logits_sha256': (boolean);
  'num_beams'?: (number);
  'length_penalty'?: (number);
  'early_stopping'?: (string);
  'no_repeat_ngram_size'?: (number);
  'input'?: "prompt"|"prompt_ids";
  '_temperature'?: "temperature";
  '_top_p'?: "top_p";
  '_top_k'?: "top_k";
  '_min_p'?: "min_p";
  '_seed'?: "seed";
  '_repetition_penalty'?: "repetition_penalty";
  '_presence_penalty'?: "presence_penalty";
  '_frequency_penalty'?: "frequency_penalty";
  '_logprobs'?: "logprobs";
  '_num_beams'?: "num_beams";
  '_length_penalty'?: "length_penalty";
  '_early_stopping'?: "early_stopping";
  '_no_repeat_ngram_size'?: "no_repeat_ngram_size";
}
