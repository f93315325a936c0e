// Original file: proto/expertmesh/v1/inference.proto


export interface Model {
  'id'?: (string);
  'hash'?: (string);
  'family'?: (string);
  'precision'?: (string);
  'context_length'?: (number);
  'kind'?: (string);
}

export interface Model__Output {
  'id': (string);
  'hash': (string);
  'family': (string);
  'precision': (string);
  'context_length': (number);
  'kind': (string);
}
