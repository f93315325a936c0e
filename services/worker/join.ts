import {
  type Client,
  type ClientReadableStream,
  credentials,
  type Metadata,
  makeGenericClientConstructor,
} from '@grpc/grpc-js'
import type { Logger } from 'pino'
import { MeshError } from '../../shared/errors.ts'
import type { JoinResponse__Output } from '../../shared/gen/expertmesh/v1/JoinResponse.ts'
import { channelOptions, loadProto, MEMBERSHIP_SERVICE, serviceOf, tokenMetadata } from '../../shared/rpc.ts'

/** Waits between calls: doubled from the first to the last, for ever. */
const RECALL_FIRST_MS = 100
const RECALL_LAST_MS = 5_000
const MAX_MESSAGE_BYTES = 2 ** 16

type JoinClient = Client & {
  Join(request: { address: string }, metadata: Metadata): ClientReadableStream<JoinResponse__Output>
}
type JoinOptions = {
  /** HOST:PORT of its gRPC. */
  gateway: string
  /** What it is to dial. */
  address: string
  token: string | null
  log: Logger
}

/** Registers this worker at a gateway, again whenever the call breaks, until the returned function takes it back. */
export const joinGateway = ({ gateway, address, token, log }: JoinOptions): (() => void) => {
  const Constructor = makeGenericClientConstructor(
    serviceOf(loadProto('membership'), MEMBERSHIP_SERVICE),
    MEMBERSHIP_SERVICE,
  )
  const options = channelOptions(MAX_MESSAGE_BYTES)
  const client = new Constructor(gateway, credentials.createInsecure(), options) as unknown as JoinClient
  let call: ClientReadableStream<JoinResponse__Output> | null = null
  let timer: NodeJS.Timeout | undefined
  let waitMs = RECALL_FIRST_MS
  let said = ''
  /** Once each: a gateway that is away for an hour is one line. */
  const say = (text: string): void => {
    if (text !== said) log.warn({ gateway }, text)
    said = text
  }
  const join = (): void => {
    const current = client.Join({ address }, tokenMetadata(token))
    call = current
    let over = false
    const again = (reason: string): void => {
      if (over || call !== current) return
      over = true
      say(`gateway ${gateway} does not use this worker: ${reason}`)
      timer = setTimeout(join, waitMs)
      waitMs = Math.min(RECALL_LAST_MS, waitMs * 2)
    }
    current.on('data', ({ live, reason, address: dialled }) => {
      waitMs = RECALL_FIRST_MS
      if (!live) return say(`gateway ${gateway} does not use this worker: ${reason}`)
      said = ''
      log.info({ gateway, address: dialled }, 'joined')
    })
    current.on('error', (error) => again(MeshError.from(error).message))
    current.on('end', () => again('it has ended the call'))
  }
  join()
  return () => {
    clearTimeout(timer)
    const last = call
    call = null
    last?.cancel()
    client.close()
  }
}
