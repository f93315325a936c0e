import type * as grpc from '@grpc/grpc-js';
import type { EnumTypeDefinition, MessageTypeDefinition } from '@grpc/proto-loader';

import type { ExpertServiceClient as _expertmesh_v1_ExpertServiceClient, ExpertServiceDefinition as _expertmesh_v1_ExpertServiceDefinition } from './expertmesh/v1/ExpertService.ts';
import type { ForwardRequest as _expertmesh_v1_ForwardRequest, ForwardRequest__Output as _expertmesh_v1_ForwardRequest__Output } from './expertmesh/v1/ForwardRequest.ts';
import type { ForwardResponse as _expertmesh_v1_ForwardResponse, ForwardResponse__Output as _expertmesh_v1_ForwardResponse__Output } from './expertmesh/v1/ForwardResponse.ts';
import type { HeldModel as _expertmesh_v1_HeldModel, HeldModel__Output as _expertmesh_v1_HeldModel__Output } from './expertmesh/v1/HeldModel.ts';
import type { HoldingsRequest as _expertmesh_v1_HoldingsRequest, HoldingsRequest__Output as _expertmesh_v1_HoldingsRequest__Output } from './expertmesh/v1/HoldingsRequest.ts';
import type { HoldingsResponse as _expertmesh_v1_HoldingsResponse, HoldingsResponse__Output as _expertmesh_v1_HoldingsResponse__Output } from './expertmesh/v1/HoldingsResponse.ts';
import type { LayerExperts as _expertmesh_v1_LayerExperts, LayerExperts__Output as _expertmesh_v1_LayerExperts__Output } from './expertmesh/v1/LayerExperts.ts';
import type { LoadRequest as _expertmesh_v1_LoadRequest, LoadRequest__Output as _expertmesh_v1_LoadRequest__Output } from './expertmesh/v1/LoadRequest.ts';
import type { LoadResponse as _expertmesh_v1_LoadResponse, LoadResponse__Output as _expertmesh_v1_LoadResponse__Output } from './expertmesh/v1/LoadResponse.ts';
import type { UnloadRequest as _expertmesh_v1_UnloadRequest, UnloadRequest__Output as _expertmesh_v1_UnloadRequest__Output } from './expertmesh/v1/UnloadRequest.ts';
import type { UnloadResponse as _expertmesh_v1_UnloadResponse, UnloadResponse__Output as _expertmesh_v1_UnloadResponse__Output } from './expertmesh/v1/UnloadResponse.ts';

type SubtypeConstructor<Constructor extends new (...args: any) => any, Subtype> = {
  new(...args: ConstructorParameters<Constructor>): Subtype;
};

export interface ProtoGrpcType {
  expertmesh: {
    v1: {
      ExpertService: SubtypeConstructor<typeof grpc.Client, _expertmesh_v1_ExpertServiceClient> & { service: _expertmesh_v1_ExpertServiceDefinition }
      ForwardRequest: MessageTypeDefinition<_expertmesh_v1_ForwardRequest, _expertmesh_v1_ForwardRequest__Output>
      ForwardResponse: MessageTypeDefinition<_expertmesh_v1_ForwardResponse, _expertmesh_v1_ForwardResponse__Output>
      HeldModel: MessageTypeDefinition<_expertmesh_v1_HeldModel, _expertmesh_v1_HeldModel__Output>
      HoldingsRequest: MessageTypeDefinition<_expertmesh_v1_HoldingsRequest, _expertmesh_v1_HoldingsRequest__Output>
      HoldingsResponse: MessageTypeDefinition<_expertmesh_v1_HoldingsResponse, _expertmesh_v1_HoldingsResponse__Output>
      LayerExperts: MessageTypeDefinition<_expertmesh_v1_LayerExperts, _expertmesh_v1_LayerExperts__Output>
      LoadRequest: MessageTypeDefinition<_expertmesh_v1_LoadRequest, _expertmesh_v1_LoadRequest__Output>
      LoadResponse: MessageTypeDefinition<_expertmesh_v1_LoadResponse, _expertmesh_v1_LoadResponse__Output>
      Precision: EnumTypeDefinition
      UnloadRequest: MessageTypeDefinition<_expertmesh_v1_UnloadRequest, _expertmesh_v1_UnloadRequest__Output>
      UnloadResponse: MessageTypeDefinition<_expertmesh_v1_UnloadResponse, _expertmesh_v1_UnloadResponse__Output>
    }
  }
}

