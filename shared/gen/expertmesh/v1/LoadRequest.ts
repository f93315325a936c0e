// Original file: proto/expertmesh/v1/expert.proto

import type { LayerExperts as _expertmesh_v1_LayerExperts, LayerExperts__Output as _expertmesh_v1_LayerExperts__Output } from '../../expertmesh/v1/LayerExperts.ts';

export interface LoadRequest {
  'model'?: (string);
  'experts'?: (_expertmesh_v1_LayerExperts)[];
}

export interface LoadRequest__Output {
  'model': (string);
  'experts': (_expertmesh_v1_LayerExperts__Output)[];
}
