// Original file: proto/expertmesh/v1/expert.proto

export const Precision = {
  PRECISION_UNSPECIFIED: 'PRECISION_UNSPECIFIED',
  PRECISION_FP32: 'PRECISION_FP32',
  PRECISION_INT8: 'PRECISION_INT8',
  PRECISION_INT4: 'PRECISION_INT4',
} as const;

export type Precision =
  | 'PRECISION_UNSPECIFIED'
  | 0
  | 'PRECISION_FP32'
  | 1
  | 'PRECISION_INT8'
  | 2
  | 'PRECISION_INT4'
  | 3

export type Precision__Output = typeof Precision[keyof typeof Precision]
