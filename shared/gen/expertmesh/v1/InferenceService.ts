// Original file: proto/expertmesh/v1/inference.proto

import type * as grpc from '@grpc/grpc-js'
import type { MethodDefinition } from '@grpc/proto-loader'
import type { DetokenizeRequest as _expertmesh_v1_DetokenizeRequest, DetokenizeRequest__Output as _expertmesh_v1_DetokenizeRequest__Output } from '../../expertmesh/v1/DetokenizeRequest.ts';
import type { DetokenizeResponse as _expertmesh_v1_DetokenizeResponse, DetokenizeResponse__Output as _expertmesh_v1_DetokenizeResponse__Output } from '../../expertmesh/v1/DetokenizeResponse.ts';
import type { GenerateRequest as _expertmesh_v1_GenerateRequest, GenerateRequest__Output as _expertmesh_v1_GenerateRequest__Output } from '../../expertmesh/v1/GenerateRequest.ts';
import type { GenerateResponse as _expertmesh_v1_GenerateResponse, GenerateResponse__Output as _expertmesh_v1_GenerateResponse__Output } from '../../expertmesh/v1/GenerateResponse.ts';
import type { ModelsRequest as _expertmesh_v1_ModelsRequest, ModelsRequest__Output as _expertmesh_v1_ModelsRequest__Output } from '../../expertmesh/v1/ModelsRequest.ts';
import type { ModelsResponse as _expertmesh_v1_ModelsResponse, ModelsResponse__Output as _expertmesh_v1_ModelsResponse__Output } from '../../expertmesh/v1/ModelsResponse.ts';
import type { TokenizeRequest as _expertmesh_v1_TokenizeRequest, TokenizeRequest__Output as _expertmesh_v1_TokenizeRequest__Output } from '../../expertmesh/v1/TokenizeRequest.ts';
import type { TokenizeResponse as _expertmesh_v1_TokenizeResponse, TokenizeResponse__Output as _expertmesh_v1_TokenizeResponse__Output } from '../../expertmesh/v1/TokenizeResponse.ts';

export interface InferenceServiceClient extends grpc.Client {
  Detokenize(argument: _expertmesh_v1_DetokenizeRequest, metadata: grpc.Metadata, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_DetokenizeResponse__Output>): grpc.ClientUnaryCall;
  Detokenize(argument: _expertmesh_v1_DetokenizeRequest, metadata: grpc.Metadata, callback: grpc.requestCallback<_expertmesh_v1_DetokenizeResponse__Output>): grpc.ClientUnaryCall;
  Detokenize(argument: _expertmesh_v1_DetokenizeRequest, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_DetokenizeResponse__Output>): grpc.ClientUnaryCall;
  Detokenize(argument: _expertmesh_v1_DetokenizeRequest, callback: grpc.requestCallback<_expertmesh_v1_DetokenizeResponse__Output>): grpc.ClientUnaryCall;
  detokenize(argument: _expertmesh_v1_DetokenizeRequest, metadata: grpc.Metadata, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_DetokenizeResponse__Output>): grpc.ClientUnaryCall;
  detokenize(argument: _expertmesh_v1_DetokenizeRequest, metadata: grpc.Metadata, callback: grpc.requestCallback<_expertmesh_v1_DetokenizeResponse__Output>): grpc.ClientUnaryCall;
  detokenize(argument: _expertmesh_v1_DetokenizeRequest, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_DetokenizeResponse__Output>): grpc.ClientUnaryCall;
  detokenize(argument: _expertmesh_v1_DetokenizeRequest, callback: grpc.requestCallback<_expertmesh_v1_DetokenizeResponse__Output>): grpc.ClientUnaryCall;
  
  Generate(argument: _expertmesh_v1_GenerateRequest, metadata: grpc.Metadata, options?: grpc.CallOptions): grpc.ClientReadableStream<_expertmesh_v1_GenerateResponse__Output>;
  Generate(argument: _expertmesh_v1_GenerateRequest, options?: grpc.CallOptions): grpc.ClientReadableStream<_expertmesh_v1_GenerateResponse__Output>;
  generate(argument: _expertmesh_v1_GenerateRequest, metadata: grpc.Metadata, options?: grpc.CallOptions): grpc.ClientReadableStream<_expertmesh_v1_GenerateResponse__Output>;
  generate(argument: _expertmesh_v1_GenerateRequest, options?: grpc.CallOptions): grpc.ClientReadableStream<_expertmesh_v1_GenerateResponse__Output>;
  
  Models(argument: _expertmesh_v1_ModelsRequest, metadata: grpc.Metadata, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_ModelsResponse__Output>): grpc.ClientUnaryCall;
  Models(argument: _expertmesh_v1_ModelsRequest, metadata: grpc.Metadata, callback: grpc.requestCallback<_expertmesh_v1_ModelsResponse__Output>): grpc.ClientUnaryCall;
  Models(argument: _expertmesh_v1_ModelsRequest, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_ModelsResponse__Output>): grpc.ClientUnaryCall;
  Models(argument: _expertmesh_v1_ModelsRequest, callback: grpc.requestCallback<_expertmesh_v1_ModelsResponse__Output>): grpc.ClientUnaryCall;
  models(argument: _expertmesh_v1_ModelsRequest, metadata: grpc.Metadata, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_ModelsResponse__Output>): grpc.ClientUnaryCall;
  models(argument: _expertmesh_v1_ModelsRequest, metadata: grpc.Metadata, callback: grpc.requestCallback<_expertmesh_v1_ModelsResponse__Output>): grpc.ClientUnaryCall;
  models(argument: _expertmesh_v1_ModelsRequest, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_ModelsResponse__Output>): grpc.ClientUnaryCall;
  models(argument: _expertmesh_v1_ModelsRequest, callback: grpc.requestCallback<_expertmesh_v1_ModelsResponse__Output>): grpc.ClientUnaryCall;
  
  Tokenize(argument: _expertmesh_v1_TokenizeRequest, metadata: grpc.Metadata, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_TokenizeResponse__Output>): grpc.ClientUnaryCall;
  Tokenize(argument: _expertmesh_v1_TokenizeRequest, metadata: grpc.Metadata, callback: grpc.requestCallback<_expertmesh_v1_TokenizeResponse__Output>): grpc.ClientUnaryCall;
  Tokenize(argument: _expertmesh_v1_TokenizeRequest, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_TokenizeResponse__Output>): grpc.ClientUnaryCall;
  Tokenize(argument: _expertmesh_v1_TokenizeRequest, callback: grpc.requestCallback<_expertmesh_v1_TokenizeResponse__Output>): grpc.ClientUnaryCall;
  tokenize(argument: _expertmesh_v1_TokenizeRequest, metadata: grpc.Metadata, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_TokenizeResponse__Output>): grpc.ClientUnaryCall;
  tokenize(argument: _expertmesh_v1_TokenizeRequest, metadata: grpc.Metadata, callback: grpc.requestCallback<_expertmesh_v1_TokenizeResponse__Output>): grpc.ClientUnaryCall;
  tokenize(argument: _expertmesh_v1_TokenizeRequest, options: grpc.CallOptions, callback: grpc.requestCallback<_expertmesh_v1_TokenizeResponse__Output>): grpc.ClientUnaryCall;
  tokenize(argument: _expertmesh_v1_TokenizeRequest, callback: grpc.requestCallback<_expertmesh_v1_TokenizeResponse__Output>): grpc.ClientUnaryCall;
  
}

export interface InferenceServiceHandlers extends grpc.UntypedServiceImplementation {
  Detokenize: grpc.handleUnaryCall<_expertmesh_v1_DetokenizeRequest__Output, _expertmesh_v1_DetokenizeResponse>;
  
  Generate: grpc.handleServerStreamingCall<_expertmesh_v1_GenerateRequest__Output, _expertmesh_v1_GenerateResponse>;
  
  Models: grpc.handleUnaryCall<_expertmesh_v1_ModelsRequest__Output, _expertmesh_v1_ModelsResponse>;
  
  Tokenize: grpc.handleUnaryCall<_expertmesh_v1_TokenizeRequest__Output, _expertmesh_v1_TokenizeResponse>;
  
}

export interface InferenceServiceDefinition extends grpc.ServiceDefinition {
  Detokenize: MethodDefinition<_expertmesh_v1_DetokenizeRequest, _expertmesh_v1_DetokenizeResponse, _expertmesh_v1_DetokenizeRequest__Output, _expertmesh_v1_DetokenizeResponse__Output>
  Generate: MethodDefinition<_expertmesh_v1_GenerateRequest, _expertmesh_v1_GenerateResponse, _expertmesh_v1_GenerateRequest__Output, _expertmesh_v1_GenerateResponse__Output>
  Models: MethodDefinition<_expertmesh_v1_ModelsRequest, _expertmesh_v1_ModelsResponse, _expertmesh_v1_ModelsRequest__Output, _expertmesh_v1_ModelsResponse__Output>
  Tokenize: MethodDefinition<_expertmesh_v1_TokenizeRequest, _expertmesh_v1_TokenizeResponse, _expertmesh_v1_TokenizeRequest__Output, _expertmesh_v1_TokenizeResponse__Output>
}
