// Original file: proto/expertmesh/v1/expert.proto

import type { Long } from '@grpc/proto-loader';

export interface LoadResponse {
  'loaded'?: (number);
  'held_bytes'?: (number | string | Long);
}

export interface LoadResponse__Output {
  'loaded': (number);
  'held_bytes': (number);
}
