// Original file: proto/expertmesh/v1/inference.proto


export interface TokenizeRequest {
  'text'?: (string);
  'add_special_tokens'?: (boolean);
  '_add_special_tokens'?: "add_special_tokens";
}

export interface TokenizeRequest__Output {
  'text': (string);
  'add_special_tokens'?: (boolean);
  '_add_special_tokens'?: "add_special_tokens";
}
