// Original file: proto/expertmesh/v1/expert.proto

import type { Long } from '@grpc/proto-loader';

export interface ForwardResponse {
  'call'?: (number | string | Long);
  'code'?: (number);
  'message'?: (string);
  'compute_us'?: (number);
  'wait_us'?: (number);
  'crc'?: (number);
  'padding'?: (Buffer | Uint8Array | string);
  'rows'?: (Buffer | Uint8Array | string);
  'shm_bytes'?: (number | string | Long);
  'row_scale'?: (number | string)[];
  'busy_us'?: (number);
}

export interface ForwardResponse__Output {
  'call': (number);
  'code': (number);
  'message': (string);
  'compute_us': (number);
  'wait_us': (number);
  'crc': (number);
  'padding': (Buffer);
  'rows': (Buffer);
  'shm_bytes': (number);
  'row_scale': (number)[];
  'busy_us': (number);
}
