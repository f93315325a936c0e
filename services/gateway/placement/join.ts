import type { ServerWritableStream, UntypedServiceImplementation } from '@grpc/grpc-js'
import { dialledFrom, isAddress } from '../../../shared/address.ts'
import { Code, invalid, MeshError } from '../../../shared/errors.ts'
import type { JoinRequest__Output } from '../../../shared/gen/expertmesh/v1/JoinRequest.ts'
import type { JoinResponse } from '../../../shared/gen/expertmesh/v1/JoinResponse.ts'
import { statusOf } from '../../../shared/status.ts'
import type { Source } from './roster.ts'

/** Calls of workers that are open at a time. */
const JOINED_MAX = 1024

type JoinCall = ServerWritableStream<JoinRequest__Output, JoinResponse>

/** Workers that register themselves at this gateway: a source of addresses, and the handlers of MembershipService behind it. */
export const openJoin = (): { source: Source; handlers: UntypedServiceImplementation } => {
  const calls = new Map<JoinCall, string>()
  let report = (_: readonly string[]): void => {}
  const changed = (): void => report([...new Set(calls.values())])

  const join = (call: JoinCall): void => {
    const { address } = call.request
    if (!isAddress(address)) throw invalid(`"${address}" is neither HOST:PORT nor unix:PATH`, 'address')
    if (calls.size >= JOINED_MAX)
      throw new MeshError(Code.RESOURCE_EXHAUSTED, `${JOINED_MAX} workers have joined, which is as many as may`)
    calls.set(call, dialledFrom(address, call.getPeer()))
    call.once('cancelled', () => {
      calls.delete(call)
      changed()
    })
    changed()
  }
  return {
    source: {
      open(onAddresses) {
        report = onAddresses
        changed()
      },
      tell(address, live, reason) {
        for (const [call, joined] of calls)
          if (joined === address && !call.writableNeedDrain) call.write({ address, live, reason })
      },
      close() {
        report = () => {}
        for (const call of calls.keys()) call.end()
        calls.clear()
      },
    },
    handlers: {
      Join(call: JoinCall) {
        try {
          join(call)
        } catch (error) {
          call.emit('error', statusOf(error))
        }
      },
    },
  }
}
