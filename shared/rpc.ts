/** What gRPC clients and servers of expertmesh have in common: protos, limits, windows, the token. */
import { join } from 'node:path'
import { type ChannelOptions, Metadata, type ServiceDefinition } from '@grpc/grpc-js'
import { loadSync, type PackageDefinition } from '@grpc/proto-loader'
import { packageRoot } from './root.ts'

/** Flow-control window of a stream and of a connection: two of the largest common frames are under way at once. */
export const WINDOW_BYTES = 8 * 2 ** 20
export const KEEPALIVE_TIME_MS = 10_000
export const KEEPALIVE_TIMEOUT_MS = 5_000
const RECONNECT_MIN_MS = 100
const RECONNECT_MAX_MS = 250

export const EXPERT_SERVICE = 'expertmesh.v1.ExpertService'
export const INFERENCE_SERVICE = 'expertmesh.v1.InferenceService'
export const MEMBERSHIP_SERVICE = 'expertmesh.v1.MembershipService'

type ProtoName = 'expert' | 'inference' | 'membership'

const protos = new Map<ProtoName, PackageDefinition>()

/** Read once, for every worker's client needs it; with the options that `npm run generate` writes the types with. */
export const loadProto = (name: ProtoName): PackageDefinition => {
  const known = protos.get(name)
  if (known) return known
  const proto = loadSync(join(packageRoot, 'proto', 'expertmesh', 'v1', `${name}.proto`), {
    keepCase: true,
    longs: Number,
    enums: String,
    defaults: true,
    oneofs: true,
  })
  protos.set(name, proto)
  return proto
}

export const serviceOf = (proto: PackageDefinition, name: string): ServiceDefinition => proto[name] as ServiceDefinition

const identity = (bytes: Buffer): Buffer => bytes

/** ExpertService with Forward as raw bytes, which frame.ts writes and reads: protobuf's reflection would cost more than small kernels. */
export const expertService = (proto: PackageDefinition): ServiceDefinition => {
  const service = serviceOf(proto, EXPERT_SERVICE)
  const raw = {
    requestSerialize: identity,
    requestDeserialize: identity,
    responseSerialize: identity,
    responseDeserialize: identity,
  }
  return { ...service, Forward: { ...service.Forward, ...raw } }
}

export const channelOptions = (maxMessageBytes: number): ChannelOptions => ({
  'grpc.max_receive_message_length': maxMessageBytes,
  'grpc.max_send_message_length': maxMessageBytes,
  'grpc.keepalive_time_ms': KEEPALIVE_TIME_MS,
  'grpc.keepalive_timeout_ms': KEEPALIVE_TIMEOUT_MS,
  'grpc.keepalive_permit_without_calls': 1,
  'grpc.initial_reconnect_backoff_ms': RECONNECT_MIN_MS,
  'grpc.min_reconnect_backoff_ms': RECONNECT_MIN_MS,
  'grpc.max_reconnect_backoff_ms': RECONNECT_MAX_MS,
  'grpc-node.flow_control_window': WINDOW_BYTES,
  // Two channels to one worker must be two connections, or the second would wait behind the first's frames.
  'grpc.use_local_subchannel_pool': 1,
  'grpc.enable_retries': 0,
})

export const tokenMetadata = (token: string | null): Metadata => {
  const metadata = new Metadata()
  if (token !== null) metadata.set('authorization', `Bearer ${token}`)
  return metadata
}
