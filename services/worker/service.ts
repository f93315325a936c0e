import type { ServerUnaryCall, ServiceError, sendUnaryData, UntypedServiceImplementation } from '@grpc/grpc-js'
import type { HoldingsRequest__Output } from '../../shared/gen/expertmesh/v1/HoldingsRequest.ts'
import type { HoldingsResponse } from '../../shared/gen/expertmesh/v1/HoldingsResponse.ts'
import type { LoadRequest__Output } from '../../shared/gen/expertmesh/v1/LoadRequest.ts'
import type { LoadResponse } from '../../shared/gen/expertmesh/v1/LoadResponse.ts'
import type { UnloadRequest__Output } from '../../shared/gen/expertmesh/v1/UnloadRequest.ts'
import type { UnloadResponse } from '../../shared/gen/expertmesh/v1/UnloadResponse.ts'
import { statusOf } from '../../shared/status.ts'
import type { Forward } from './forward.ts'
import type { Hold } from './hold.ts'
import type { Watch } from './watch.ts'

/** What a worker says of itself besides what it holds. */
export type WorkerFacts = { device: string; numericClass: string; threads: number; rowsPerSecond: number }

/** As a gateway of this model is told. */
export const holdingsOf = (hold: Hold, facts: WorkerFacts, model: string, draining: boolean): HoldingsResponse => ({
  models: hold.held(),
  visible: hold.visible,
  held_bytes: hold.heldBytes,
  idle_bytes: hold.idleBytes(model),
  memory_limit_bytes: hold.memoryLimitBytes,
  device: facts.device,
  numeric_class: facts.numericClass,
  threads: facts.threads,
  rows_per_second: facts.rowsPerSecond,
  draining,
  loading: hold.loading(),
})

type Parts = { hold: Hold; forward: Forward; watch: Watch; holdings: (model: string) => HoldingsResponse }

/** The handlers of ExpertService. */
export const expertHandlers = ({ hold, forward, watch, holdings }: Parts): UntypedServiceImplementation => ({
  Forward: forward.serve,
  Load: unary(async ({ model, experts }: LoadRequest__Output): Promise<LoadResponse> => {
    const loading = hold.load(model, experts)
    // Other gateways need not wait for the end to know that this memory is spoken for.
    watch.changed()
    const loaded = await loading.finally(watch.changed)
    return { loaded, held_bytes: hold.heldBytes }
  }),
  Unload: unary(async ({ model, experts }: UnloadRequest__Output): Promise<UnloadResponse> => {
    const unloaded = await hold.unload(model, experts)
    if (unloaded > 0) watch.changed()
    return { unloaded, held_bytes: hold.heldBytes }
  }),
  Holdings: unary(async ({ model }: HoldingsRequest__Output) => holdings(model)),
  Watch: watch.serve,
})

const unary =
  <Request, Response>(answer: (request: Request) => Promise<Response>) =>
  ({ request }: ServerUnaryCall<Request, Response>, reply: sendUnaryData<Response>): void => {
    answer(request).then(
      (response) => reply(null, response),
      (error) => reply(statusOf(error) as Partial<ServiceError>),
    )
  }
