/** The gRPC status codes expertmesh uses; the numbers are gRPC's own (grpc/grpc statuscodes.md). */
export const Code = {
  CANCELLED: 1,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  DATA_LOSS: 15,
  UNAUTHENTICATED: 16,
} as const
export type Code = (typeof Code)[keyof typeof Code]

/**
 * Every failure a user can meet. The message is one sentence that names the cause and, where there is one, the cure.
 * `param` names the request field at fault; `reason` is a stable word for programs (OpenAI's `error.code`).
 */
export class MeshError extends Error {
  readonly code: Code
  readonly param: string | null
  readonly reason: string | null
  /** When it is worth trying again, where that is known. */
  readonly retryAfterSeconds: number | null

  constructor(
    code: Code,
    message: string,
    options: { cause?: unknown; param?: string; reason?: string; retryAfterSeconds?: number } = {},
  ) {
    super(message, { cause: options.cause })
    this.name = 'MeshError'
    this.code = code
    this.param = options.param ?? null
    this.reason = options.reason ?? null
    this.retryAfterSeconds = options.retryAfterSeconds ?? null
  }

  /** A MeshError as it is; a gRPC status error keeps its code; anything else becomes INTERNAL with the original as cause. */
  static from(thrown: unknown): MeshError {
    if (thrown instanceof MeshError) return thrown
    if (thrown instanceof Error && 'code' in thrown && 'details' in thrown) {
      const known = Object.values(Code).find((code) => code === thrown.code)
      if (known) return new MeshError(known, String(thrown.details), { cause: thrown })
    }
    const message = thrown instanceof Error ? thrown.message : String(thrown)
    return new MeshError(Code.INTERNAL, message, { cause: thrown })
  }
}

/** The field or value at fault is the caller's. */
export const invalid = (message: string, param?: string): MeshError =>
  new MeshError(Code.INVALID_ARGUMENT, message, param === undefined ? {} : { param })
