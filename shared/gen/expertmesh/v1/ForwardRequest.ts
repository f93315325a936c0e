// Original file: proto/expertmesh/v1/expert.proto

import type { Long } from '@grpc/proto-loader';

export interface ForwardRequest {
  'call'?: (number | string | Long);
  'model'?: (string);
  'layer'?: (number);
  'row_count'?: (number);
  'hidden'?: (number);
  'deadline_ms'?: (number);
  'cancel_call'?: (number | string | Long);
  'row_index'?: (number)[];
  'expert'?: (number)[];
  'rows'?: (Buffer | Uint8Array | string);
  'row_scale'?: (number | string)[];
  'crc'?: (number);
  'shm_offset'?: (number | string | Long);
}

export interface ForwardRequest__Output {
  'call': (number);
  'model': (string);
  'layer': (number);
  'row_count': (number);
  'hidden': (number);
  'deadline_ms': (number);
  'cancel_call': (number);
  'row_index': (number)[];
  'expert': (number)[];
  'rows': (Buffer);
  'row_scale': (number)[];
  'crc': (number);
  'shm_offset': (number);
}
