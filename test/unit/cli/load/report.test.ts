import { describe, expect, test } from 'vitest'
import { block, json, type Report } from '../../../../services/cli/load/report.ts'

const summary = (count: number) => ({ count, mean: 12.345, median: 11, p99: 30.5, max: 31 })
const report: Report = {
  inFlightMax: 64,
  pace: { waited: 0, unsent: 0, lateMs: 2, inFlightMost: 9 },
  result: {
    durationS: 4,
    completed: 120,
    failed: 0,
    stopped: 0,
    inputTokens: 1000,
    outputTokens: 2000,
    ttft: summary(120),
    tpot: summary(120),
    itl: summary(1880),
    e2el: summary(120),
    errors: {},
    resumed: { streams: 0, resumes: 0, longestGapMs: 0 },
    undisturbedGapMs: 31,
    repeats: 0,
  },
}
const having = (result: Partial<Report['result']>, pace: Partial<Report['pace']> = {}): Report => ({
  ...report,
  pace: { ...report.pace, ...pace },
  result: { ...report.result, ...result },
})

describe('the block', () => {
  test('is that of vllm bench serve', () => {
    expect(block(report)).toMatchInlineSnapshot(`
      "============ Serving Benchmark Result ============
      Successful requests:                     120
      Failed requests:                         0
      Benchmark duration (s):                  4.00
      Total input tokens:                      1000
      Total generated tokens:                  2000
      Request throughput (req/s):              30.00
      Output token throughput (tok/s):         500.00
      Total Token throughput (tok/s):          750.00
      ---------------Time to First Token----------------
      Mean TTFT (ms):                          12.35
      Median TTFT (ms):                        11.00
      P99 TTFT (ms):                           30.50
      -----Time per Output Token (excl. 1st token)------
      Mean TPOT (ms):                          12.35
      Median TPOT (ms):                        11.00
      P99 TPOT (ms):                           30.50
      ---------------Inter-token Latency----------------
      Mean ITL (ms):                           12.35
      Median ITL (ms):                         11.00
      P99 ITL (ms):                            30.50
      ----------------End-to-end Latency----------------
      Mean E2EL (ms):                          12.35
      Median E2EL (ms):                        11.00
      P99 E2EL (ms):                           30.50
      ==================================================
      Samples: TTFT 120, TPOT 120, ITL 1880, E2EL 120.
      Longest gap between tokens: 31.0 ms in streams that kept their connection."
    `)
  })

  test('every row of it is 50 wide or ends with its value', () => {
    const rows = block(report).split('\n')
    for (const row of rows.slice(
      0,
      rows.findLastIndex((line) => line.startsWith('===')),
    ))
      expect(row).toMatch(/^([-=].{48}[-=]|.{40} \d+(\.\d\d)?)$/)
  })

  test('says where the P99 is only the maximum', () => {
    expect(block(report)).not.toContain('P99 is the maximum')
    expect(block(having({ ttft: summary(99) }))).toContain('with fewer than 100, P99 is the maximum: TTFT.')
  })

  test('shows a dash for what was not measured', () => {
    expect(block(having({ itl: null, durationS: 0 }))).toMatch(/Mean ITL \(ms\): +-\n/)
  })

  test('names errors by kind, resumed streams, waiting arrivals and a client that was late', () => {
    const text = block(
      having(
        {
          failed: 5,
          stopped: 2,
          repeats: 4,
          errors: { refused: { count: 3, first: '429: full' }, wrong: { count: 2, first: 'token 1' } },
          resumed: { streams: 2, resumes: 3, longestGapMs: 812.34 },
        },
        { waited: 7, unsent: 1, lateMs: 80 },
      ),
    )
    expect(text).toContain('Failed, refused (429): 3. The first: 429: full')
    expect(text).toContain('Failed, wrong tokens: 2. The first: token 1')
    expect(text).toContain('Resumed streams: 2, taken up again 3 times, longest gap between tokens 812.3 ms')
    expect(text).toContain('Requests sent again before their answer had begun: 4.')
    expect(text).toContain('Arrivals that had to wait because 64 requests were under way (--max-concurrency): 7;')
    expect(text).toContain('never sent: 1.')
    expect(text).toContain('up to 80 ms late')
    expect(text).toContain('Under way when the run was stopped: 2.')
  })
})

describe('the JSON', () => {
  test('has the names of vllm’s', () => {
    expect(json(report)).toMatchObject({
      duration: 4,
      completed: 120,
      failed: 0,
      total_input: 1000,
      total_output: 2000,
      request_throughput: 30,
      output_throughput: 500,
      total_token_throughput: 750,
      mean_ttft_ms: 12.345,
      median_tpot_ms: 11,
      p99_itl_ms: 30.5,
      max_itl_ms: 31,
      mean_e2el_ms: 12.345,
      samples_itl: 1880,
    })
  })

  test('has null for what was not measured, and errors by kind', () => {
    const errors = { timeout: { count: 2, first: 'late' } }
    expect(json(having({ tpot: null, errors }))).toMatchObject({
      p99_tpot_ms: null,
      samples_tpot: 0,
      errors: { timeout: 2 },
      first_errors: { timeout: 'late' },
    })
  })
})
