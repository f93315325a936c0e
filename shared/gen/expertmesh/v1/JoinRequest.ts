// Original file: proto/expertmesh/v1/membership.proto


export interface JoinRequest {
  'address'?: (string);
}

export interface JoinRequest__Output {
  'address': (string);
}
