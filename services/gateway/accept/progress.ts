import { invalid } from '../../../shared/errors.ts'

/** How far a reader has come in one choice: '' nowhere, 'p' what stands before the first token, else the index of its last token. */
type Reached = '' | 'p' | number

/** Ids of server-sent events: what a reader has once it has that event. One entry per choice, so that the last id says it all. */
export type Progress = {
  /** The reader has this too. */
  prompt(choice: number): void
  token(choice: number, index: number): void
  /** True for what it had when it came (back). */
  hadPrompt(choice: number): boolean
  hadToken(choice: number, index: number): boolean
  /** The index of the last token of a single choice; of several, separated by commas. */
  id(): string
}

/** @throws MeshError INVALID_ARGUMENT unless `lastEventId`, where there is one, is an id of such a stream. */
export const openProgress = (choices: number, lastEventId: string | null): Progress => {
  const before = parse(choices, lastEventId)
  const now = [...before]
  return {
    prompt(choice) {
      if (now[choice] === '') now[choice] = 'p'
    },
    token(choice, index) {
      now[choice] = index
    },
    hadPrompt: (choice) => before[choice] !== '',
    hadToken(choice, index) {
      const reached = before[choice]
      return typeof reached === 'number' && index <= reached
    },
    id: () => now.join(','),
  }
}

const parse = (choices: number, text: string | null): Reached[] => {
  if (text === null || text === '') return new Array(choices).fill('')
  const reached = text.split(',')
  if (reached.length !== choices || !reached.every((part) => /^(p|\d{1,15})?$/.test(part)))
    throw invalid(
      `Last-Event-ID ${text.slice(0, 80)} is no id of this stream, whose ids have ${choices} parts: leave it out to start over.`,
      'Last-Event-ID',
    )
  return reached.map((part) => (part === '' || part === 'p' ? part : Number(part)))
}
