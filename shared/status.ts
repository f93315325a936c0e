import { MeshError } from './errors.ts'

/** The one place where something thrown becomes a gRPC status. MeshError's codes are gRPC's, so they go out as they are. */
export const statusOf = (thrown: unknown): { code: number; details: string } => {
  const error = MeshError.from(thrown)
  return { code: error.code, details: error.message }
}
