import { defineConfig } from 'vitest/config'

/** Processes are killed, stopped and slowed under load for minutes: one scenario at a time, and not with every test run. */
export default defineConfig({
  test: {
    include: ['test/faults/**/*.test.ts'],
    fileParallelism: false,
    testTimeout: 600_000,
    hookTimeout: 240_000,
  },
})
