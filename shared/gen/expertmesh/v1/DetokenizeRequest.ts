// Original file: proto/expertmesh/v1/inference.proto


export interface DetokenizeRequest {
  'ids'?: (number)[];
}

export interface DetokenizeRequest__Output {
  'ids': (number)[];
}
