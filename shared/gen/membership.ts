import type * as grpc from '@grpc/grpc-js';
import type { MessageTypeDefinition } from '@grpc/proto-loader';

import type { JoinRequest as _expertmesh_v1_JoinRequest, JoinRequest__Output as _expertmesh_v1_JoinRequest__Output } from './expertmesh/v1/JoinRequest.ts';
import type { JoinResponse as _expertmesh_v1_JoinResponse, JoinResponse__Output as _expertmesh_v1_JoinResponse__Output } from './expertmesh/v1/JoinResponse.ts';
import type { MembershipServiceClient as _expertmesh_v1_MembershipServiceClient, MembershipServiceDefinition as _expertmesh_v1_MembershipServiceDefinition } from './expertmesh/v1/MembershipService.ts';

type SubtypeConstructor<Constructor extends new (...args: any) => any, Subtype> = {
  new(...args: ConstructorParameters<Constructor>): Subtype;
};

export interface ProtoGrpcType {
  expertmesh: {
    v1: {
      JoinRequest: MessageTypeDefinition<_expertmesh_v1_JoinRequest, _expertmesh_v1_JoinRequest__Output>
      JoinResponse: MessageTypeDefinition<_expertmesh_v1_JoinResponse, _expertmesh_v1_JoinResponse__Output>
      MembershipService: SubtypeConstructor<typeof grpc.Client, _expertmesh_v1_MembershipServiceClient> & { service: _expertmesh_v1_MembershipServiceDefinition }
    }
  }
}

