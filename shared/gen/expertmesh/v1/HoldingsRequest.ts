// Original file: proto/expertmesh/v1/expert.proto


export interface HoldingsRequest {
  'model'?: (string);
}

export interface HoldingsRequest__Output {
  'model': (string);
}
