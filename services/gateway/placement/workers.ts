import { setTimeout as delay } from 'node:timers/promises'
import {
  type Client,
  type ClientReadableStream,
  credentials,
  type Metadata,
  makeGenericClientConstructor,
  type requestCallback,
} from '@grpc/grpc-js'
import { Code, MeshError } from '../../../shared/errors.ts'
import type { HoldingsResponse__Output } from '../../../shared/gen/expertmesh/v1/HoldingsResponse.ts'
import type { LoadResponse__Output } from '../../../shared/gen/expertmesh/v1/LoadResponse.ts'
import type { UnloadResponse__Output } from '../../../shared/gen/expertmesh/v1/UnloadResponse.ts'
import type { LayerExperts } from '../../../shared/model/part.ts'
import { channelOptions, EXPERT_SERVICE, loadProto, serviceOf, tokenMetadata } from '../../../shared/rpc.ts'
import type { Home } from './locate.ts'

/** Holdings of any number of experts fit; frames do not travel here. */
const MAX_MESSAGE_BYTES = 16 * 2 ** 20
const ASK_LIMIT_MS = 5_000
/** Waits between attempts to reach a worker: doubled from the first to the last. */
const RETRY_FIRST_MS = 50
const RETRY_LAST_MS = 100

export type Holdings = {
  /** Experts by model hash. */
  models: ReadonlyMap<string, Home>
  /** Experts on their way in, whoever asked for them: heldBytes counts them already. */
  loading: ReadonlyMap<string, Home>
  /** Hashes of the models it could load. */
  visible: readonly string[]
  heldBytes: number
  /** Of heldBytes, those that would make room for this gateway's model: of models that no gateway needs. */
  idleBytes: number
  memoryLimitBytes: number
  device: string
  numericClass: string
  threads: number
  /** Token rows through a reference expert per second, as measured when it started. */
  rowsPerSecond: number
  /** It is about to end. */
  draining: boolean
}

/** The control plane of one worker, on a connection of its own: nothing here waits behind frames. */
export type WorkerControl = {
  readonly address: string
  /** @throws MeshError UNAVAILABLE or UNAUTHENTICATED, DEADLINE_EXCEEDED after limitMs. */
  holdings(limitMs?: number): Promise<Holdings>
  /**
   * Tells what it holds: at once, at every change, and once a second. onEnd is told once why it ended, unless the returned
   * function ended it. While this is under way the worker takes it that it is needed.
   */
  watch(onHoldings: (holdings: Holdings) => void, onEnd: (error: MeshError) => void): () => void
  /**
   * Resolves when all of these can run, which may include converting their weights: pass a limit that allows for it.
   * @throws MeshError RESOURCE_EXHAUSTED when they do not fit, NOT_FOUND when the worker does not see the model.
   */
  load(model: string, experts: readonly LayerExperts[], limitMs: number): Promise<{ loaded: number; heldBytes: number }>
  /** No experts named: all of the model. */
  unload(
    model: string,
    experts: readonly LayerExperts[],
    limitMs: number,
  ): Promise<{ unloaded: number; heldBytes: number }>
  close(): void
}

type Method<Response> = (
  request: object,
  metadata: Metadata,
  options: { deadline: Date },
  reply: requestCallback<Response>,
) => void
type ControlClient = Client & {
  Holdings: Method<HoldingsResponse__Output>
  Load: Method<LoadResponse__Output>
  Unload: Method<UnloadResponse__Output>
  Watch(request: object, metadata: Metadata): ClientReadableStream<HoldingsResponse__Output>
}

/** model: hash of what the worker is needed for; without one, what is held for nobody else may be dropped. */
export const controlWorker = ({
  address,
  token,
  model: served = '',
}: {
  address: string
  token: string | null
  model?: string
}): WorkerControl => {
  const Constructor = makeGenericClientConstructor(serviceOf(loadProto('expert'), EXPERT_SERVICE), EXPERT_SERVICE)
  const options = channelOptions(MAX_MESSAGE_BYTES)
  const client = new Constructor(address, credentials.createInsecure(), options) as unknown as ControlClient
  const metadata = tokenMetadata(token)
  const named = (thrown: unknown): MeshError => {
    const { code, message } = MeshError.from(thrown)
    return new MeshError(code, `worker ${address}: ${message}`, { cause: thrown })
  }
  const ask = async <Response>(method: Method<Response>, request: object, limitMs: number): Promise<Response> => {
    const deadline = new Date(Date.now() + limitMs)
    try {
      return await new Promise<Response>((resolve, reject) => {
        method.call(client, request, metadata, { deadline }, (error, response) =>
          error || !response ? reject(error) : resolve(response),
        )
      })
    } catch (error) {
      throw named(error)
    }
  }
  return {
    address,
    holdings: async (limitMs = ASK_LIMIT_MS) => holdingsOf(await ask(client.Holdings, { model: served }, limitMs)),
    watch(onHoldings, onEnd) {
      const stream = client.Watch({ model: served }, metadata)
      let over = false
      const end = (error: unknown): void => {
        if (over) return
        over = true
        onEnd(named(error))
      }
      stream.on('data', (response) => over || onHoldings(holdingsOf(response)))
      stream.on('error', end)
      stream.on('end', () => end(new MeshError(Code.UNAVAILABLE, 'it has ended')))
      return () => {
        over = true
        stream.cancel()
      }
    },
    load: async (model, experts, limitMs) => {
      const { loaded, held_bytes } = await ask(client.Load, { model, experts }, limitMs)
      return { loaded, heldBytes: held_bytes }
    },
    unload: async (model, experts, limitMs) => {
      const { unloaded, held_bytes } = await ask(client.Unload, { model, experts }, limitMs)
      return { unloaded, heldBytes: held_bytes }
    },
    close: () => client.close(),
  }
}

const byModel = (held: HoldingsResponse__Output['models']): Map<string, Home> =>
  new Map(held.map(({ model, experts }) => [model, experts]))

const holdingsOf = (response: HoldingsResponse__Output): Holdings => ({
  models: byModel(response.models),
  loading: byModel(response.loading),
  visible: response.visible,
  heldBytes: response.held_bytes,
  idleBytes: response.idle_bytes,
  memoryLimitBytes: response.memory_limit_bytes,
  device: response.device,
  numericClass: response.numeric_class,
  threads: response.threads,
  rowsPerSecond: response.rows_per_second,
  draining: response.draining,
})

/**
 * Asks until the worker answers.
 * @throws MeshError UNAVAILABLE after limitMs, CANCELLED when the signal fires; any other refusal, such as a wrong token, at once.
 */
export const reachWorker = async (
  worker: WorkerControl,
  { limitMs, signal }: { limitMs: number; signal?: AbortSignal },
): Promise<Holdings> => {
  const giveUpAt = performance.now() + limitMs
  for (let waitMs = RETRY_FIRST_MS; ; waitMs = Math.min(RETRY_LAST_MS, waitMs * 2)) {
    try {
      return await worker.holdings()
    } catch (thrown) {
      const error = MeshError.from(thrown)
      if (error.code !== Code.UNAVAILABLE && error.code !== Code.DEADLINE_EXCEEDED) throw error
      if (performance.now() + waitMs > giveUpAt) {
        const cure = 'start it, or correct --worker'
        throw new MeshError(Code.UNAVAILABLE, `${error.message}; not reached within ${limitMs} ms: ${cure}`, {
          cause: error,
        })
      }
    }
    await delay(waitMs, undefined, signal ? { signal } : {}).catch(() => {
      throw new MeshError(Code.CANCELLED, `stopped waiting for worker ${worker.address}`)
    })
  }
}

/** A worker's or gateway's measured class. */
export type Classed = { address: string; device: string; numericClass: string }

/**
 * Bits stay the same when all experts compute in one class; on CPUs that must be the gateway's own, whose attention and routers
 * were probed together with its experts. A GPU's probe covers experts alone and never equals a CPU's.
 * @throws MeshError FAILED_PRECONDITION naming the workers that differ.
 */
export const checkClasses = (gatewayClass: string, workers: readonly Classed[]): void => {
  const own = workers[0]?.device === 'cpu' ? gatewayClass : workers[0]?.numericClass
  const others = workers.filter(({ numericClass }) => numericClass !== own)
  if (others.length === 0) return
  const named = others.map(
    ({ address, device, numericClass }) => `${address} (${device}, ${numericClass.slice(0, 12)})`,
  )
  const cause = `these workers compute other bits than the rest of the cluster (${own?.slice(0, 12)}): ${named.join(', ')}`
  throw new MeshError(
    Code.FAILED_PRECONDITION,
    `${cause}; use machines of one kind, or let a cluster of its own serve from them`,
  )
}
