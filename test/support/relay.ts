import { once } from 'node:events'
import { type AddressInfo, connect, createServer as createTcpServer, type Socket } from 'node:net'
import {
  type Client,
  type ClientDuplexStream,
  type ClientReadableStream,
  credentials,
  type Metadata,
  makeGenericClientConstructor,
  type ServerDuplexStream,
  type ServerWritableStream,
} from '@grpc/grpc-js'
import { checksum, decodeRequest, decodeResponse, encodeResponse, type ForwardResponse } from '../../shared/frame.ts'
import type { TokenRows } from '../../shared/model/rows.ts'
import { channelOptions, EXPERT_SERVICE, expertService, loadProto } from '../../shared/rpc.ts'
import { closeServer, createServer, listen } from '../../shared/server.ts'
import { bytesOf } from '../../shared/wire.ts'

const MESSAGE_BYTES_MAX = 1 << 27

/** What a broken worker makes of an answer; null: it says nothing. A promise delays it. */
export type Spoil = (response: ForwardResponse) => ForwardResponse | null | Promise<ForwardResponse | null>

/** Rows as they are: a sound worker. */
export const sound: Spoil = (response) => response

const withRows = (response: ForwardResponse, rows: Partial<TokenRows>): ForwardResponse => {
  const changed = { ...response, ...rows }
  return { ...changed, crc: checksum(changed) }
}

/** The first of them is no number. */
const spoilt = (values: Float32Array): Float32Array => values.map((value, i) => (i === 0 ? Number.NaN : value))

/** Ways in which a worker is broken. */
export const spoils = {
  /** A bit was lost on the way. */
  corrupt: (response) => {
    const rows = response.rows.slice()
    if (rows.length > 0) bytesOf(rows)[0] ^= 1
    return { ...response, rows }
  },
  short: (response) => withRows(response, { rows: response.rows.slice(0, Math.max(0, response.rows.length - 1)) }),
  notFinite: (response) => {
    const { rows, rowScale } = response
    if (rowScale) return withRows(response, { rowScale: spoilt(rowScale) })
    return rows instanceof Float32Array ? withRows(response, { rows: spoilt(rows) }) : response
  },
  /** Finite, with a checksum that fits, and wrong. */
  wrong: (response) => withRows(response, { rows: response.rows.map((value) => value * 1.5) }),
} satisfies Record<string, Spoil>

export type Relay = {
  address: string
  /** Applies to every answer from now on. */
  spoil: Spoil
  close(): Promise<void>
}

type Stream = ServerDuplexStream<Buffer, Buffer>
type Tell = (request: object, metadata: Metadata) => ClientReadableStream<object>
type ForwardClient = Client & { Forward(metadata: Metadata): ClientDuplexStream<Buffer, Buffer> }

/** A broken worker: a real one behind a relay that spoils what it answers. Everything but Forward passes as it is. */
export const openRelay = async (worker: string): Promise<Relay> => {
  const service = expertService(loadProto('expert'))
  const Constructor = makeGenericClientConstructor(service, EXPERT_SERVICE)
  const client = new Constructor(worker, credentials.createInsecure(), channelOptions(MESSAGE_BYTES_MAX))
  const relay: Relay = { address: '', spoil: sound, close: async () => {} }
  const Forward = (stream: Stream): void => {
    const behind = (client as unknown as ForwardClient).Forward(stream.metadata)
    const fences = new Set<number>()
    stream.on('data', (bytes: Buffer) => {
      const { call, frame } = decodeRequest(Buffer.from(bytes))
      if (!frame) fences.add(call)
      behind.write(bytes)
    })
    stream.on('end', () => behind.end())
    stream.on('cancelled', () => behind.cancel())
    behind.on('data', async (bytes: Buffer) => {
      const response = decodeResponse(Buffer.from(bytes))
      const answer = response.code === 0 && !fences.has(response.call) ? await relay.spoil(response) : response
      if (answer) stream.write(encodeResponse(answer))
    })
    behind.on('end', () => stream.end())
    behind.on('error', (error) => stream.destroy(error))
  }
  const pass = (method: string) => (call: { request: object; metadata: Metadata }, reply: () => void) =>
    (client as unknown as Record<string, (...args: unknown[]) => void>)[method](call.request, call.metadata, reply)
  const tell = (method: string) => (call: ServerWritableStream<object, object>) => {
    const behind = (client as unknown as Record<string, Tell>)[method](call.request, call.metadata)
    behind.on('data', (message) => call.write(message))
    behind.on('end', () => call.end())
    behind.on('error', (error) => call.destroy(error))
    call.on('cancelled', () => behind.cancel())
  }
  const server = createServer({ token: null, maxMessageBytes: MESSAGE_BYTES_MAX })
  const others = Object.entries(service).filter(([name]) => name !== 'Forward')
  const handlers = others.map(([name, { responseStream }]) => [name, responseStream ? tell(name) : pass(name)])
  server.addService(service, { Forward, ...Object.fromEntries(handlers) } as never)
  relay.address = await listen(server, '127.0.0.1:0')
  relay.close = async () => {
    await closeServer(server, 0)
    client.close()
  }
  return relay
}

export type Wire = {
  address: string
  /** Cut: bytes are neither passed on nor refused, as behind a pulled cable. */
  cut: boolean
  close(): Promise<void>
}

/** A TCP connection that can be cut and healed. */
export const openWire = async (target: string): Promise<Wire> => {
  const sockets = new Set<Socket>()
  const [host, port] = target.split(':')
  let cut = false
  const server = createTcpServer((near) => {
    const far = connect(Number(port), host)
    for (const [from, to] of [
      [near, far],
      [far, near],
    ]) {
      sockets.add(from)
      from.on('data', (bytes) => to.write(bytes))
      from.on('error', () => to.destroy())
      from.once('close', () => {
        sockets.delete(from)
        to.destroy()
      })
      if (cut) from.pause()
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    get cut() {
      return cut
    },
    set cut(value) {
      cut = value
      for (const socket of sockets) socket[cut ? 'pause' : 'resume']()
    },
    async close() {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}
