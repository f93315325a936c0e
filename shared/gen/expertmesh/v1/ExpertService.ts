// Original file: proto/expertmesh/v1/expert.proto

import type * as grpc from '@grpc/grpc-js'
import type { MethodDefinition } from '@grpc/proto-loader'
import type { ForwardRequest as _expertmesh_v1_ForwardRequest, ForwardRequest__Output as _expertmesh_v1_ForwardRequest__Output } from '../../expertmesh/v1/ForwardRequest.ts';
import type { ForwardResponse as _expertmesh_v1_ForwardResponse, ForwardResponse__Output as _expertmesh_v1_ForwardResponse__Output } from '../../expertmesh/v1/ForwardResponse.ts';
import type { HoldingsRequest as _expertmesh_v1_HoldingsRequest, HoldingsRequest__Output as _expertmesh_v1_HoldingsRequest__Output } from '../../expertmesh/v1/HoldingsRequest.ts';
import type { HoldingsResponse as _expertmesh_v1_HoldingsResponse, HoldingsResponse__Output as _expertmesh_v1_HoldingsResponse__Output } from '../../expertmesh/v1/HoldingsResponse.ts';
import type { LoadRequest as _expertmesh_v1_LoadRequest, LoadRequest__Output as _expertmesh_v1_LoadRequest__Output } from '../../expertmesh/v1/LoadRequest.ts';
import type { LoadResponse as _expertmesh_v1_LoadResponse, LoadResponse__Output as _expertmesh_v1_LoadResponse__Output } from '../../expertmesh/v1/LoadResponse.ts';
import type { UnloadRequest as _expertmesh_v1_UnloadRequest, UnloadRequest__Output as _expertmesh_v1_UnloadRequest__Output } from '../../expertmesh/v1/UnloadRequest.ts';
import type { UnloadResponse as _expertmesh_v1_UnloadResponse, UnloadResponse__Output as _expertmesh_v1_UnloadResponse__Output } from '../../expertmesh/v1/UnloadResponse.ts';

export interface ExpertServiceClient extends grpc.Client {
  Forward(metadata: grpc.Metadata, options?: grpc.CallOptions): grpc.ClientDuplexStream<_expertmesh_v1_ForwardRequest, _expertmesh_v1_ForwardResponse__Output>;
  Forward(options?: grpc.CallOptions): grpc.ClientDuplexStream<_expertmesh_v1_ForwardRequest, _expertmesh_v1_ForwardResponse__Output>;
  forward(metadata: grpc.Metadata, options?: grpc.CallOptions): grpc.ClientDuplexStream<_expertmesh_v1_ForwardRequest, _expertmesh_v1_ForwardResponse__Output>;
  forward(options?: grpc.CallOptions): grpc.ClientDuplexStream<_expertmesh_v1_ForwardRequest, _expertmesh_v1_ForwardResponse__Output>;
  
  Holdings(argument: _expertmesh_v1_HoldingsRequest, metadata: grpc.Metadata, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_HoldingsResponse__Output>): grpc.ClientUnaryCall;
  Holdings(argument: _expertmesh_v1_HoldingsRequest, metadata: grpc.Metadata, callback: grpc.requestCallback<_expertmesh_v1_HoldingsResponse__Output>): grpc.ClientUnaryCall;
  Holdings(argument: _expertmesh_v1_HoldingsRequest, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_HoldingsResponse__Output>): grpc.ClientUnaryCall;
  Holdings(argument: _expertmesh_v1_HoldingsRequest, callback: grpc.requestCallback<_expertmesh_v1_HoldingsResponse__Output>): grpc.ClientUnaryCall;
  holdings(argument: _expertmesh_v1_HoldingsRequest, metadata: grpc.Metadata, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_HoldingsResponse__Output>): grpc.ClientUnaryCall;
  holdings(argument: _expertmesh_v1_HoldingsRequest, metadata: grpc.Metadata, callback: grpc.requestCallback<_expertmesh_v1_HoldingsResponse__Output>): grpc.ClientUnaryCall;
  holdings(argument: _expertmesh_v1_HoldingsRequest, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_HoldingsResponse__Output>): grpc.ClientUnaryCall;
  holdings(argument: _expertmesh_v1_HoldingsRequest, callback: grpc.requestCallback<_expertmesh_v1_HoldingsResponse__Output>): grpc.ClientUnaryCall;
  
  Load(argument: _expertmesh_v1_LoadRequest, metadata: grpc.Metadata, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_LoadResponse__Output>): grpc.ClientUnaryCall;
  Load(argument: _expertmesh_v1_LoadRequest, metadata: grpc.Metadata, callback: grpc.requestCallback<_expertmesh_v1_LoadResponse__Output>): grpc.ClientUnaryCall;
  Load(argument: _expertmesh_v1_LoadRequest, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_LoadResponse__Output>): grpc.ClientUnaryCall;
  Load(argument: _expertmesh_v1_LoadRequest, callback: grpc.requestCallback<_expertmesh_v1_LoadResponse__Output>): grpc.ClientUnaryCall;
  load(argument: _expertmesh_v1_LoadRequest, metadata: grpc.Metadata, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_LoadResponse__Output>): grpc.ClientUnaryCall;
  load(argument: _expertmesh_v1_LoadRequest, metadata: grpc.Metadata, callback: grpc.requestCallback<_expertmesh_v1_LoadResponse__Output>): grpc.ClientUnaryCall;
  load(argument: _expertmesh_v1_LoadRequest, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_LoadResponse__Output>): grpc.ClientUnaryCall;
  load(argument: _expertmesh_v1_LoadRequest, callback: grpc.requestCallback<_expertmesh_v1_LoadResponse__Output>): grpc.ClientUnaryCall;
  
  Unload(argument: _expertmesh_v1_UnloadRequest, metadata: grpc.Metadata, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_UnloadResponse__Output>): grpc.ClientUnaryCall;
  Unload(argument: _expertmesh_v1_UnloadRequest, metadata: grpc.Metadata, callback: grpc.requestCallback<_expertmesh_v1_UnloadResponse__Output>): grpc.ClientUnaryCall;
  Unload(argument: _expertmesh_v1_UnloadRequest, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_UnloadResponse__Output>): grpc.ClientUnaryCall;
  Unload(argument: _expertmesh_v1_UnloadRequest, callback: grpc.requestCallback<_expertmesh_v1_UnloadResponse__Output>): grpc.ClientUnaryCall;
  unload(argument: _expertmesh_v1_UnloadRequest, metadata: grpc.Metadata, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_UnloadResponse__Output>): grpc.ClientUnaryCall;
  unload(argument: _expertmesh_v1_UnloadRequest, metadata: grpc.Metadata, callback: grpc.requestCallback<_expertmesh_v1_UnloadResponse__Output>): grpc.ClientUnaryCall;
  unload(argument: _expertmesh_v1_UnloadRequest, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_UnloadResponse__Output>): grpc.ClientUnaryCall;
  unload(argument: _expertmesh_v1_UnloadRequest, callback: grpc.requestCallback<_expertmesh_v1_UnloadResponse__Output>): grpc.ClientUnaryCall;
  
  Watch(argument: _expertmesh_v1_HoldingsRequest, metadata: grpc.Metadata, options?: grpc.CallOptions): grpc.ClientReadableStream<_expertmesh_v1_HoldingsResponse__Output>;
  Watch(argument: _expertmesh_v1_HoldingsRequest, options?: grpc.CallOptions): grpc.ClientReadableStream<_expertmesh_v1_HoldingsResponse__Output>;
  watch(argument: _expertmesh_v1_HoldingsRequest, metadata: grpc.Metadata, options?: grpc.CallOptions): grpc.ClientReadableStream<_expertmesh_v1_HoldingsResponse__Output>;
  watch(argument: _expertmesh_v1_HoldingsRequest, options?: grpc.CallOptions): grpc.ClientReadableStream<_expertmesh_v1_HoldingsResponse__Output>;
  
}

export interface ExpertServiceHandlers extends grpc.UntypedServiceImplementation {
  Forward: grpc.handleBidiStreamingCall<_expertmesh_v1_ForwardRequest__Output, _expertmesh_v1_ForwardResponse>;
  
  Holdings: grpc.handleUnaryCall<_expertmesh_v1_HoldingsRequest__Output, _expertmesh_v1_HoldingsResponse>;
  
  Load: grpc.handleUnaryCall<_expertmesh_v1_LoadRequest__Output, _expertmesh_v1_LoadResponse>;
  
  Unload: grpc.handleUnaryCall<_expertmesh_v1_UnloadRequest__Output, _expertmesh_v1_UnloadResponse>;
  
  Watch: grpc.handleServerStreamingCall<_expertmesh_v1_HoldingsRequest__Output, _expertmesh_v1_HoldingsResponse>;
  
}

export interface ExpertServiceDefinition extends grpc.ServiceDefinition {
  Forward: MethodDefinition<_expertmesh_v1_ForwardRequest, _expertmesh_v1_ForwardResponse, _expertmesh_v1_ForwardRequest__Output, _expertmesh_v1_ForwardResponse__Output>
  Holdings: MethodDefinition<_expertmesh_v1_HoldingsRequest, _expertmesh_v1_HoldingsResponse, _expertmesh_v1_HoldingsRequest__Output, _expertmesh_v1_HoldingsResponse__Output>
  Load: MethodDefinition<_expertmesh_v1_LoadRequest, _expertmesh_v1_LoadResponse, _expertmesh_v1_LoadRequest__Output, _expertmesh_v1_LoadResponse__Output>
  Unload: MethodDefinition<_expertmesh_v1_UnloadRequest, _expertmesh_v1_UnloadResponse, _expertmesh_v1_UnloadRequest__Output, _expertmesh_v1_UnloadResponse__Output>
  Watch: MethodDefinition<_expertmesh_v1_HoldingsRequest, _expertmesh_v1_HoldingsResponse, _expertmesh_v1_HoldingsRequest__Output, _expertmesh_v1_HoldingsResponse__Output>
}
