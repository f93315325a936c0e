// Original file: proto/expertmesh/v1/inference.proto


export interface Logprob {
  'id'?: (number);
  'token'?: (string);
  'logprob'?: (number | string);
}

export interface Logprob__Output {
  'id': (number);
  'token': (string);
  'logprob': (number);
}
