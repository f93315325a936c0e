import type * as grpc from '@grpc/grpc-js';
import type { MessageTypeDefinition } from '@grpc/proto-loader';

import type { DetokenizeRequest as _expertmesh_v1_DetokenizeRequest, DetokenizeRequest__Output as _expertmesh_v1_DetokenizeRequest__Output } from './expertmesh/v1/DetokenizeRequest.ts';
import type { DetokenizeResponse as _expertmesh_v1_DetokenizeResponse, DetokenizeResponse__Output as _expertmesh_v1_DetokenizeResponse__Output } from './expertmesh/v1/DetokenizeResponse.ts';
import type { GenerateRequest as _expertmesh_v1_GenerateRequest, GenerateRequest__Output as _expertmesh_v1_GenerateRequest__Output } from './expertmesh/v1/GenerateRequest.ts';
import type { GenerateResponse as _expertmesh_v1_GenerateResponse, GenerateResponse__Output as _expertmesh_v1_GenerateResponse__Output } from './expertmesh/v1/GenerateResponse.ts';
import type { InferenceServiceClient as _expertmesh_v1_InferenceServiceClient, InferenceServiceDefinition as _expertmesh_v1_InferenceServiceDefinition } from './expertmesh/v1/InferenceService.ts';
import type { Logprob as _expertmesh_v1_Logprob, Logprob__Output as _expertmesh_v1_Logprob__Output } from './expertmesh/v1/Logprob.ts';
import type { Model as _expertmesh_v1_Model, Model__Output as _expertmesh_v1_Model__Output } from './expertmesh/v1/Model.ts';
import type { ModelsRequest as _expertmesh_v1_ModelsRequest, ModelsRequest__Output as _expertmesh_v1_ModelsRequest__Output } from './expertmesh/v1/ModelsRequest.ts';
import type { ModelsResponse as _expertmesh_v1_ModelsResponse, ModelsResponse__Output as _expertmesh_v1_ModelsResponse__Output } from './expertmesh/v1/ModelsResponse.ts';
import type { TokenIds as _expertmesh_v1_TokenIds, TokenIds__Output as _expertmesh_v1_TokenIds__Output } from './expertmesh/v1/TokenIds.ts';
import type { TokenizeRequest as _expertmesh_v1_TokenizeRequest, TokenizeRequest__Output as _expertmesh_v1_TokenizeRequest__Output } from './expertmesh/v1/TokenizeRequest.ts';
import type { TokenizeResponse as _expertmesh_v1_TokenizeResponse, TokenizeResponse__Output as _expertmesh_v1_TokenizeResponse__Output } from './expertmesh/v1/TokenizeResponse.ts';
import type { Usage as _expertmesh_v1_Usage, Usage__Output as _expertmesh_v1_Usage__Output } from './expertmesh/v1/Usage.ts';

type SubtypeConstructor<Constructor extends new (...args: any) => any, Subtype> = {
  new(...args: ConstructorParameters<Constructor>): Subtype;
};

export interface ProtoGrpcType {
  expertmesh: {
    v1: {
      DetokenizeRequest: MessageTypeDefinition<_expertmesh_v1_DetokenizeRequest, _expertmesh_v1_DetokenizeRequest__Output>
      DetokenizeResponse: MessageTypeDefinition<_expertmesh_v1_DetokenizeResponse, _expertmesh_v1_DetokenizeResponse__Output>
      GenerateRequest: MessageTypeDefinition<_expertmesh_v1_GenerateRequest, _expertmesh_v1_GenerateRequest__Output>
      GenerateResponse: MessageTypeDefinition<_expertmesh_v1_GenerateResponse, _expertmesh_v1_GenerateResponse__Output>
      InferenceService: SubtypeConstructor<typeof grpc.Client, _expertmesh_v1_InferenceServiceClient> & { service: _expertmesh_v1_InferenceServiceDefinition }
      Logprob: MessageTypeDefinition<_expertmesh_v1_Logprob, _expertmesh_v1_Logprob__Output>
      Model: MessageTypeDefinition<_expertmesh_v1_Model, _expertmesh_v1_Model__Output>
      ModelsRequest: MessageTypeDefinition<_expertmesh_v1_ModelsRequest, _expertmesh_v1_ModelsRequest__Output>
      ModelsResponse: MessageTypeDefinition<_expertmesh_v1_ModelsResponse, _expertmesh_v1_ModelsResponse__Output>
      TokenIds: MessageTypeDefinition<_expertmesh_v1_TokenIds, _expertmesh_v1_TokenIds__Output>
      TokenizeRequest: MessageTypeDefinition<_expertmesh_v1_TokenizeRequest, _expertmesh_v1_TokenizeRequest__Output>
      TokenizeResponse: MessageTypeDefinition<_expertmesh_v1_TokenizeResponse, _expertmesh_v1_TokenizeResponse__Output>
      Usage: MessageTypeDefinition<_expertmesh_v1_Usage, _expertmesh_v1_Usage__Output>
    }
  }
}

