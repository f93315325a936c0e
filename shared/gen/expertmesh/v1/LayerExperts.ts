// Original file: proto/expertmesh/v1/expert.proto


export interface LayerExperts {
  'layer'?: (number);
  'experts'?: (number)[];
}

export interface LayerExperts__Output {
  'layer': (number);
  'experts': (number)[];
}
