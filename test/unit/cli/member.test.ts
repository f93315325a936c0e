import { describe, expect, test } from 'vitest'
import { parseListening, readLog } from '../../../services/cli/member.ts'

describe('what services say', () => {
  test.each([
    ['listening http://127.0.0.1:8080', ['http', 'http://127.0.0.1:8080']],
    ['listening grpc [::1]:9000', ['grpc', '[::1]:9000']],
    ['listening unix:/run/a b', ['', 'unix:/run/a b']],
    ['listening unix:/run/a', ['', 'unix:/run/a']],
    ['listening 127.0.0.1:7070', ['', '127.0.0.1:7070']],
    ['now listening 127.0.0.1:7070', null],
  ])('%j', (line, expected) => {
    expect(parseListening(line)).toEqual(expected)
  })

  test('a log record is quiet up to info, and anything else is shown', () => {
    expect(readLog('{"level":30,"msg":"model"}')).toEqual({ text: 'model', urgent: false })
    expect(readLog('{"level":40,"msg":"careful"}')).toEqual({ text: 'careful', urgent: true })
    expect(readLog('{"level":60,"msg":"the reason"}')).toEqual({ text: 'the reason', urgent: false })
    expect(readLog('Error: boom')).toEqual({ text: 'Error: boom', urgent: true })
    expect(readLog('{"broken')).toEqual({ text: '{"broken', urgent: true })
  })
})
