import { Code, MeshError } from '../../../shared/errors.ts'
import type { Precision } from '../../../shared/model/config.ts'
import { type Classed, checkClasses, type Holdings } from './workers.ts'

export type Applicant = { address: string; holdings: Holdings }

/**
 * Says who may compute for this gateway: workers of one numeric class that see its model. The first admitted sets the class
 * for all that come later.
 * @throws MeshError FAILED_PRECONDITION for a class or device that will not do, NOT_FOUND for one that does not see the model.
 */
export type Admit = (applicants: readonly Applicant[]) => void

export const openAdmission = (own: { numericClass: string; model: string; precision: Precision }): Admit => {
  let first: Classed | null = null
  return (applicants) => {
    const classed = applicants.map(
      ({ address, holdings: { device, numericClass } }): Classed => ({ address, device, numericClass }),
    )
    checkClasses(own.numericClass, first ? [first, ...classed] : classed)
    for (const { address, holdings } of applicants) {
      if (holdings.device !== 'cpu' && own.precision !== 'fp32') {
        const cause = `worker ${address} runs on ${holdings.device}, and ${own.precision} runs on CPUs alone`
        throw new MeshError(Code.FAILED_PRECONDITION, `${cause}: use --precision fp32, or workers with --device cpu`)
      }
      if (holdings.visible.includes(own.model)) continue
      const cause = `worker ${address} sees no model ${own.model.slice(0, 12)}`
      throw new MeshError(Code.NOT_FOUND, `${cause}; start it with --models naming the same checkpoint and precision`)
    }
    first ??= classed[0] ?? null
  }
}
