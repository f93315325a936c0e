import { mkdtemp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Code, MeshError } from '../../shared/errors.ts'
import { coresAllowed } from '../../shared/machine.ts'
import { socketFolder } from '../../shared/shm.ts'
import { type ClusterOptions, checkCluster, gatewayFlags, workerFlags } from './flags.ts'
import { type Member, readLog, startMember } from './member.ts'
import { aborted } from './signals.ts'

const READY_POLL_MS = 50
const READY_CALL_MS = 5_000
const PROGRESS_MS = 2_000
const REASON_MS = 500

/** A gateway and its workers, all processes of this machine. */
export type Cluster = {
  /** http://HOST:PORT */
  readonly http: string
  /** HOST:PORT of the gateway's gRPC. */
  readonly grpc: string
  /** The outcome of work that needs the gateway; should the gateway end meanwhile, that is the reason it fails with. */
  during<T>(work: Promise<T>): Promise<T>
  /** Ends every process, the gateway first. */
  stop(): Promise<void>
}

/** Tells a person on stderr; stdout is for results. */
export const say = (text: string): void => console.error(text)

/**
 * Starts the processes and waits until every expert is served.
 * @throws MeshError INVALID_ARGUMENT for flags that contradict each other, UNAVAILABLE when one of them ends instead, CANCELLED when the signal aborts; nothing is left running then.
 */
export const startCluster = async (
  options: ClusterOptions,
  signal: AbortSignal,
  verbose: boolean,
): Promise<Cluster> => {
  checkCluster(options)
  const directory = await mkdtemp(join(socketFolder(), 'expertmesh-'))
  const members: Member[] = []
  let stopping = false
  const stop = async (): Promise<void> => {
    stopping = true
    for (const kind of ['gateway', 'worker']) {
      await Promise.all(members.filter(({ name }) => name.startsWith(kind)).map((member) => member.stop()))
    }
    await rm(directory, { recursive: true, force: true })
  }
  const start = (service: 'gateway' | 'worker', name: string, flags: string[]): Member => {
    const member = startMember(service, name, flags, (line) => {
      const { text, urgent } = readLog(line)
      if (verbose || (urgent && !stopping)) say(`${name}: ${verbose ? line : text}`)
    })
    members.push(member)
    return member
  }
  const endProgress = reportProgress(`starting a gateway and ${count(options.workers, 'worker')}`)
  try {
    const cancelled = aborted(signal).then(() => {
      throw new MeshError(Code.CANCELLED, 'stopped while starting')
    })
    const cores = coresAllowed()
    const addresses = Array.from({ length: options.workers }, (_, index) => `unix:${directory}/worker-${index}`)
    const workers = addresses.map((address, index) =>
      start('worker', `worker ${index}`, workerFlags(options, address, cores)),
    )
    // At once: it has its own to open, and asks until they answer.
    const gateway = start('gateway', 'gateway', gatewayFlags(options, addresses))
    const begun = Promise.all(workers.map((worker) => worker.listening(1))).then(() => gateway.listening(2))
    const at = await Promise.race([begun, cancelled])
    const failed = gateway.ended.then((how) => {
      throw new MeshError(Code.UNAVAILABLE, `the gateway ${how}`)
    })
    failed.catch(() => {}) // Whoever waits on it hears of it; nobody need.
    const [http, grpc] = [at.get('http') ?? '', at.get('grpc') ?? '']
    await Promise.race([ready(http, signal), cancelled, failed])
    for (const worker of workers) {
      void worker.ended.then((how) => {
        if (!stopping) say(`${worker.name} ${how}; the gateway has its experts held elsewhere`)
      })
    }
    return { http, grpc, during: (work) => during(work, failed), stop }
  } catch (thrown) {
    await stop()
    throw thrown
  } finally {
    endProgress()
  }
}

export const count = (n: number, noun: string): string => `${n} ${noun}${n === 1 ? '' : 's'}`

/** A broken connection is noticed before the end of the process that broke it. */
const during = <T>(work: Promise<T>, failed: Promise<never>): Promise<T> =>
  Promise.race([
    failed,
    work.catch(async (thrown) => {
      const broken = !(thrown instanceof MeshError) || thrown.code === Code.UNAVAILABLE
      if (broken) await Promise.race([failed, delay(REASON_MS)])
      throw thrown
    }),
  ])

/** Polls /readyz, which is 200 when every (layer, expert) has a live holder. */
const ready = async (http: string, signal: AbortSignal): Promise<void> => {
  while (!signal.aborted) {
    const limit = AbortSignal.any([signal, AbortSignal.timeout(READY_CALL_MS)])
    const response = await fetch(`${http}/readyz`, { signal: limit }).catch(() => null)
    await response?.arrayBuffer()
    if (response?.ok) return
    await delay(READY_POLL_MS)
  }
}

/** Says what is going on every two seconds until the returned function is called. */
export const reportProgress = (what: string): (() => void) => {
  const begun = Date.now()
  const timer = setInterval(() => say(`${what}: ${Math.round((Date.now() - begun) / 1000)} s`), PROGRESS_MS)
  return () => clearInterval(timer)
}
