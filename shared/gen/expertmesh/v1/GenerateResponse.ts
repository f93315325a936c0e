// Original file: proto/expertmesh/v1/inference.proto

import type { Logprob as _expertmesh_v1_Logprob, Logprob__Output as _expertmesh_v1_Logprob__Output } from '../../expertmesh/v1/Logprob.ts';
import type { Usage as _expertmesh_v1_Usage, Usage__Output as _expertmesh_v1_Usage__Output } from '../../expertmesh/v1/Usage.ts';

export interface GenerateResponse {
  'id'?: (string);
  'index'?: (number);
  'ids'?: (number)[];
  'text'?: (string);
  'logprobs'?: (_expertmesh_v1_Logprob)[];
  'finish_reason'?: (string);
  'usage'?: (_expertmesh_v1_Usage | null);
  'logits_sha256'?: (string);
}

export interface GenerateResponse__Output {
  'id': (string);
  'index': (number);
  'ids': (number)[];
  'text': (string);
  'logprobs': (_expertmesh_v1_Logprob__Output)[];
  'finish_reason': (string);
  'usage': (_expertmesh_v1_Usage__Output | null);
  'logits_sha256': (string);
}
