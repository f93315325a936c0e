/** Rows through experts as a gateway's /metrics count them; phases: milliseconds by part of a step. */
export type Rows = {
  byWorker: Map<string, number>
  byExpert: number[]
  steps: number
  atMs: number
  phases: Map<string, number>
}

/** A gauge or counter without labels of its own; NaN when it is not there. */
export const metric = (text: string, name: string): number =>
  Number(new RegExp(`^expertmesh_${name}(?:\\{[^}]*\\})? ([\\d.e+-]+)`, 'm').exec(text)?.[1] ?? Number.NaN)

export const metricsOf = async (url: string): Promise<string> => (await fetch(`${url}/metrics`)).text()

export const rowsOf = async (url: string): Promise<Rows> => {
  const text = await metricsOf(url)
  const phases = new Map(
    [...text.matchAll(/^expertmesh_step_seconds_total\{phase="(\w+)"[^}]*\} (\S+)/gm)].map(([, phase, seconds]) => [
      phase,
      1000 * Number(seconds),
    ]),
  )
  const steps = metric(text, 'steps_total')
  const rows: Rows = { byWorker: new Map(), byExpert: [], steps, atMs: performance.now(), phases }
  const series = /^expertmesh_expert_rows_total\{layer="\d+",expert="(\d+)",worker="([^"]+)"[^}]*\} (\d+)/gm
  for (const [, expert, worker, count] of text.matchAll(series)) {
    rows.byWorker.set(worker, (rows.byWorker.get(worker) ?? 0) + Number(count))
    rows.byExpert[Number(expert)] = (rows.byExpert[Number(expert)] ?? 0) + Number(count)
  }
  return rows
}

/** What happened between two looks: shares of the rows by worker and by expert, 0 to 1. */
export const between = (before: Rows, after: Rows, workers: readonly string[]) => {
  const own = workers.map((worker) => (after.byWorker.get(worker) ?? 0) - (before.byWorker.get(worker) ?? 0))
  const total = own.reduce((sum, rows) => sum + rows, 0)
  const seconds = (after.atMs - before.atMs) / 1000
  return {
    shares: own.map((rows) => rows / total),
    popularity: Array.from(after.byExpert, (rows = 0, expert) => (rows - (before.byExpert[expert] ?? 0)) / total),
    rowsPerSecond: total / seconds,
    stepMs: (1000 * seconds) / (after.steps - before.steps),
  }
}

/** Greatest ÷ mean of loads, each for its speed. */
export const unevenness = (shares: readonly number[], speeds: readonly number[] = shares.map(() => 1)): number => {
  const total = speeds.reduce((sum, speed) => sum + speed, 0)
  return Math.max(...shares.map((share, i) => (share * total) / speeds[i]))
}
