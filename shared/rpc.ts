/** How every gRPC client and server of expertmesh is set up: protos, limits, windows, token, health, reflection. */
import { createHash, timingSafeEqual } from 'node:crypto'
import { rm } from 'node:fs/promises'
import type { Http2Server, ServerHttp2Session } from 'node:http2'
import { connect } from 'node:net'
import { join } from 'node:path'
import {
  type ChannelOptions,
  Metadata,
  Server,
  ServerCredentials,
  ServerInterceptingCall,
  type ServerInterceptingCallInterface,
  type ServerMethodDefinition,
  type ServiceDefinition,
} from '@grpc/grpc-js'
import { loadSync, type PackageDefinition } from '@grpc/proto-loader'
import { ReflectionService } from '@grpc/reflection'
import { HealthImplementation } from 'grpc-health-check'
import { socketOf } from './address.ts'
import { Code, MeshError } from './errors.ts'
import { packageRoot } from './root.ts'

/** Flow-control window of a stream and of a connection: two of the largest common frames are under way at once. */
export const WINDOW_BYTES = 8 * 2 ** 20
const KEEPALIVE_TIME_MS = 10_000
const KEEPALIVE_TIMEOUT_MS = 5_000
const MAX_CONCURRENT_STREAMS = 1024
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

/** A server with expertmesh's limits; with a token, every call but health checks must carry it. */
export const createServer = (options: { token: string | null; maxMessageBytes: number }): Server =>
  new Server({
    'grpc.max_receive_message_length': options.maxMessageBytes,
    'grpc.max_send_message_length': -1,
    'grpc.max_concurrent_streams': MAX_CONCURRENT_STREAMS,
    'grpc.keepalive_time_ms': KEEPALIVE_TIME_MS,
    'grpc.keepalive_timeout_ms': KEEPALIVE_TIMEOUT_MS,
    interceptors: options.token === null ? [] : [tokenInterceptor(options.token)],
  })

const digest = (text: string): Buffer => createHash('sha256').update(text).digest()

/** Compares digests, so that neither content nor length of the token shows in the time it takes. */
const tokenInterceptor = (token: string) => {
  const expected = digest(`Bearer ${token}`)
  return (method: ServerMethodDefinition<unknown, unknown>, call: ServerInterceptingCallInterface) => {
    if (method.path.startsWith('/grpc.health.v1.Health/')) return new ServerInterceptingCall(call)
    return new ServerInterceptingCall(call, {
      start: (next) =>
        next({
          onReceiveMetadata: (metadata, forward) => {
            const given = metadata.get('authorization').map(String)
            if (given.length === 1 && timingSafeEqual(digest(given[0]), expected)) return forward(metadata)
            call.sendStatus({
              code: Code.UNAUTHENTICATED,
              details: 'the call carries no valid token: pass the one the server was started with',
            })
          },
        }),
    })
  }
}

/** Health starts as NOT_SERVING; '' stands for the whole process. */
export const addHealth = (server: Server, service: string): ((serving: boolean) => void) => {
  const health = new HealthImplementation({ '': 'NOT_SERVING', [service]: 'NOT_SERVING' })
  health.addToServer(server)
  return (serving) => {
    for (const name of ['', service]) health.setStatus(name, serving ? 'SERVING' : 'NOT_SERVING')
  }
}

export const addReflection = (server: Server, proto: PackageDefinition): void => {
  new ReflectionService(proto).addToServer(server)
}

/**
 * Listens on HOST:PORT (port 0 takes a free one) or unix:PATH and returns the address a client dials.
 * @throws MeshError UNAVAILABLE when the address cannot be had.
 */
export const listen = async (server: Server, address: string): Promise<string> => {
  const socket = socketOf(address)
  if (socket) await removeStaleSocket(socket)
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync(address, ServerCredentials.createInsecure(), (error, bound) => {
      if (error)
        reject(new MeshError(Code.UNAVAILABLE, `cannot listen on ${address}: ${error.message}`, { cause: error }))
      else resolve(bound)
    })
  })
  widenWindows(server)
  return socket ? address : address.replace(/:\d+$/, `:${port}`)
}

/** A process that was killed leaves its socket's file behind, where nobody answers any more. */
const removeStaleSocket = (path: string): Promise<void> =>
  new Promise((resolve) => {
    const socket = connect(path)
    socket.once('connect', () => {
      socket.destroy()
      resolve()
    })
    socket.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'ECONNREFUSED') resolve()
      else rm(path, { force: true }).then(resolve, resolve)
    })
  })

/**
 * grpc-js gives clients a flow-control window option but leaves its servers at HTTP/2's 64 KB, so every 64 KB of a frame
 * would wait for the receiver's window update, and those for the sender's event loop, which kernels block. The http2
 * servers are private to grpc-js; should a later version hide them elsewhere, frames are slower and nothing else changes.
 */
const widenWindows = (server: Server): void => {
  const servers = (server as unknown as { http2Servers?: unknown }).http2Servers
  if (!(servers instanceof Map)) return
  for (const http2 of servers.keys() as Iterable<Http2Server>) {
    http2.on('session', (session: ServerHttp2Session) => {
      session.settings({ initialWindowSize: WINDOW_BYTES })
      session.setLocalWindowSize(WINDOW_BYTES)
    })
  }
}

/** Waits for calls under way up to a limit, then breaks the rest. */
export const closeServer = async (server: Server, limitMs: number): Promise<void> => {
  const timer = setTimeout(() => server.forceShutdown(), limitMs)
  await new Promise<void>((resolve) => server.tryShutdown(() => resolve()))
  clearTimeout(timer)
}
