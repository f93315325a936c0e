import { availableParallelism, cpus, totalmem } from 'node:os'

/** What figures were measured on. */
export const describeMachine = () => ({
  processor: cpus()[0].model.trim(),
  cores: availableParallelism(),
  memoryBytes: totalmem(),
  node: process.version,
})
