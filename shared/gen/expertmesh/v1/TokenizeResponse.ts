// Original file: proto/expertmesh/v1/inference.proto


export interface TokenizeResponse {
  'ids'?: (number)[];
  'tokens'?: (string)[];
}

export interface TokenizeResponse__Output {
  'ids': (number)[];
  'tokens': (string)[];
}
