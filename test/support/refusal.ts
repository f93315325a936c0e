import { expect } from 'vitest'
import { MeshError } from '../../shared/errors.ts'

/** The error with which something is refused; fails the test when it is accepted. */
export const refusal = (accept: () => unknown): MeshError => {
  try {
    accept()
  } catch (error) {
    expect(error).toBeInstanceOf(MeshError)
    return error as MeshError
  }
  throw new Error('it was accepted')
}
