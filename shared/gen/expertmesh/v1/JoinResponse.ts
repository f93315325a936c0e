// Original file: proto/expertmesh/v1/membership.proto


export interface JoinResponse {
  'address'?: (string);
  'live'?: (boolean);
  'reason'?: (string);
}

export interface JoinResponse__Output {
  'address': (string);
  'live': (boolean);
  'reason': (string);
}
