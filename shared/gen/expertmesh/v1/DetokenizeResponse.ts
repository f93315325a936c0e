// Original file: proto/expertmesh/v1/inference.proto


export interface DetokenizeResponse {
  'text'?: (string);
}

export interface DetokenizeResponse__Output {
  'text': (string);
}
