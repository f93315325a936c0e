// Original file: proto/expertmesh/v1/membership.proto

import type * as grpc from '@grpc/grpc-js'
import type { MethodDefinition } from '@grpc/proto-loader'
import type { JoinRequest as _expertmesh_v1_JoinRequest, JoinRequest__Output as _expertmesh_v1_JoinRequest__Output } from '../../expertmesh/v1/JoinRequest.ts';
import type { JoinResponse as _expertmesh_v1_JoinResponse, JoinResponse__Output as _expertmesh_v1_JoinResponse__Output } from '../../expertmesh/v1/JoinResponse.ts';

export interface MembershipServiceClient extends grpc.Client {
  Join(argument: _expertmesh_v1_JoinRequest, metadata: grpc.Metadata, options?: grpc.CallOptions): grpc.ClientReadableStream<_expertmesh_v1_JoinResponse__Output>;
  Join(argument: _expertmesh_v1_JoinRequest, options?: grpc.CallOptions): grpc.ClientReadableStream<_expertmesh_v1_JoinResponse__Output>;
  join(argument: _expertmesh_v1_JoinRequest, metadata: grpc.Metadata, options?: grpc.CallOptions): grpc.ClientReadableStream<_expertmesh_v1_JoinResponse__Output>;
  join(argument: _expertmesh_v1_JoinRequest, options?: grpc.CallOptions): grpc.ClientReadableStream<_expertmesh_v1_JoinResponse__Output>;
  
}

export interface MembershipServiceHandlers extends grpc.UntypedServiceImplementation {
  Join: grpc.handleServerStreamingCall<_expertmesh_v1_JoinRequest__Output, _expertmesh_v1_JoinResponse>;
  
}

export interface MembershipServiceDefinition extends grpc.ServiceDefinition {
  Join: MethodDefinition<_expertmesh_v1_JoinRequest, _expertmesh_v1_JoinResponse, _expertmesh_v1_JoinRequest__Output, _expertmesh_v1_JoinResponse__Output>
}
