/** How every gRPC server of expertmesh is set up: limits, windows, token, health, reflection. */
import { createHash, timingSafeEqual } from 'node:crypto'
import { rm } from 'node:fs/promises'
import type { Http2Server, ServerHttp2Session } from 'node:http2'
import { connect } from 'node:net'
import {
  Server,
  ServerCredentials,
  ServerInterceptingCall,
  type ServerInterceptingCallInterface,
  type ServerMethodDefinition,
} from '@grpc/grpc-js'
import type { PackageDefinition } from '@grpc/proto-loader'
import { ReflectionService } from '@grpc/reflection'
import { HealthImplementation } from 'grpc-health-check'
import { socketOf } from './address.ts'
import { Code, MeshError } from './errors.ts'
import { KEEPALIVE_TIME_MS, KEEPALIVE_TIMEOUT_MS, WINDOW_BYTES } from './rpc.ts'

const MAX_CONCURRENT_STREAMS = 1024

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
