// Original file: proto/expertmesh/v1/expert.proto

import type { Long } from '@grpc/proto-loader';

export interface UnloadResponse {
  'unloaded'?: (number);
  'held_bytes'?: (number | string | Long);
}

export interface UnloadResponse__Output {
  'unloaded': (number);
  'held_bytes': (number);
}
