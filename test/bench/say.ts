const PROGRESS_MS = 2_000

/** Tells a person on stderr; stdout is for results. */
export const say = (text: string): void => console.error(`bench: ${text}`)

/** Says every two seconds how far something is, until the returned function is called. */
export const progress = (what: string, state: () => Promise<string>): (() => void) => {
  const timer = setInterval(() => {
    void state().then((text) => say(`${what}: ${text}`))
  }, PROGRESS_MS)
  return () => clearInterval(timer)
}
