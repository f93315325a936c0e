// Original file: proto/expertmesh/v1/expert.proto


export interface HoldingsRequest {
}

export interface HoldingsRequest__Output {
}
