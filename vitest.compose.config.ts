import { defineConfig } from 'vitest/config'

/** `npm run test:compose`: clusters in containers, run by a real docker engine. */
export default defineConfig({
  test: {
    include: ['test/compose/**/*.test.ts'],
    // One engine, one cluster, and the tests of a file follow one another.
    fileParallelism: false,
    testTimeout: 300_000,
    hookTimeout: 1_200_000,
  },
})
