// Original file: proto/expertmesh/v1/inference.proto

import type { Model as _expertmesh_v1_Model, Model__Output as _expertmesh_v1_Model__Output } from '../../expertmesh/v1/Model.ts';

export interface ModelsResponse {
  'models'?: (_expertmesh_v1_Model)[];
}

export interface ModelsResponse__Output {
  'models': (_expertmesh_v1_Model__Output)[];
}
