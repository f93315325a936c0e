// Original file: proto/expertmesh/v1/inference.proto


export interface ModelsRequest {
}

export interface ModelsRequest__Output {
}
