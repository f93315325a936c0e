import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // These have scripts of their own.
    exclude: ['test/faults/**', 'test/compose/**'],
    // Each test file starts processes of its own; more than two at once only fight for the cores.
    maxWorkers: 2,
    testTimeout: 240_000,
    hookTimeout: 240_000,
  },
})
