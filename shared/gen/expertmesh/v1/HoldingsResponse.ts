// Original file: proto/expertmesh/v1/expert.proto

import type { HeldModel as _expertmesh_v1_HeldModel, HeldModel__Output as _expertmesh_v1_HeldModel__Output } from '../../expertmesh/v1/HeldModel.ts';
import type { Long } from '@grpc/proto-loader';

export interface HoldingsResponse {
  'models'?: (_expertmesh_v1_HeldModel)[];
  'visible'?: (string)[];
  'held_bytes'?: (number | string | Long);
  'memory_limit_bytes'?: (number | string | Long);
  'device'?: (string);
  'numeric_class'?: (string);
  'threads'?: (number);
  'rows_per_second'?: (number | string);
  'draining'?: (boolean);
  'loading'?: (_expertmesh_v1_HeldModel)[];
  'idle_bytes'?: (number | string | Long);
}

export interface HoldingsResponse__Output {
  'models': (_expertmesh_v1_HeldModel__Output)[];
  'visible': (string)[];
  'held_bytes': (number);
  'memory_limit_bytes': (number);
  'device': (string);
  'numeric_class': (string);
  'threads': (number);
  'rows_per_second': (number);
  'draining': (boolean);
  'loading': (_expertmesh_v1_HeldModel__Output)[];
  'idle_bytes': (number);
}
