import { describe, expect, test } from 'vitest'
import { checkRules, parseRules, RULES_HELP, wishesOf } from '../../../../services/gateway/placement/rules.ts'

const rulesOf = (...rules: unknown[]) => parseRules(JSON.stringify({ rules }), 'rules.json')
const addresses = ['10.0.0.7:9000', '10.0.1.2:9000', '10.0.1.3:9001', 'unix:/run/w(1)']

describe('what rules say', () => {
  test('the example in --help does what it says', () => {
    const example = RULES_HELP.slice(RULES_HELP.lastIndexOf('{"rules"'))
    const wish = wishesOf(parseRules(example, '--help'), addresses)
    expect([wish(1, 0).copies, wish(4, 15).copies, wish(1, 1).copies, wish(5, 0).copies]).toEqual([3, 3, 1, 1])
    expect([wish(26, 5).pinned, wish(25, 5).pinned]).toEqual([[0], []])
    expect([[...wish(20, 1).forbidden], [...wish(19, 1).forbidden]]).toEqual([[0, 3], []])
  })

  test('a rule without layers and experts is about all of them', () => {
    const wish = wishesOf(rulesOf({ forbid: '*:9001' }), addresses)
    expect([...wish(0, 0).forbidden, ...wish(60, 255).forbidden]).toEqual([2, 2])
  })

  test('several rules about one expert add up', () => {
    const wish = wishesOf(
      rulesOf({ replicate: 2 }, { replicate: 4, layers: 3 }, { pin: '*:9000', layers: [3, '5-6'] }),
      addresses,
    )
    expect(wish(3, 9)).toEqual({ pinned: [0, 1], forbidden: new Set(), copies: 4 })
    expect(wish(6, 9)).toEqual({ pinned: [0, 1], forbidden: new Set(), copies: 2 })
  })

  test('in an address only * stands for other characters', () => {
    const pinned = (glob: string) => wishesOf(rulesOf({ pin: glob }), addresses)(0, 0).pinned
    expect([pinned('10.0.1.2:9000'), pinned('10.0.1.?:9000'), pinned('10x0.*')]).toEqual([[1], [], []])
    expect(pinned('unix:/run/w(*)')).toEqual([3])
  })
})

describe('a wrong file is refused with its place and the cure', () => {
  test.each([
    ['rules', 'rules.json is not JSON'],
    ['[]', 'rules.json: the file must be an object: write {"rules": [RULE, …]}'],
    ['{}', 'rules.json: rules must be a list of rules'],
    ['{"rules": [{"pin": "a"}, {"pin": ["a", 7]}]}', 'rules[1].pin must be a worker address or a list of them'],
    ['{"rules": [{"layers": 1}]}', 'rules[0] must have exactly one of "pin", "forbid" and "replicate"'],
    ['{"rules": [{"pin": "a", "replicate": 2}]}', 'exactly one'],
    ['{"rules": [{"pin": "a", "layer": 2}]}', 'rules[0] has "layer", which means nothing here: write "pin"'],
    ['{"rules": [{"replicate": 0}]}', 'rules[0].replicate must be a whole number from 1 to 4096'],
    ['{"rules": [{"replicate": "2"}]}', 'rules[0].replicate must be a whole number'],
    ['{"rules": [{"pin": "a", "layers": "8-3"}]}', 'ends before it begins: write "3-8"'],
    ['{"rules": [{"pin": "a", "experts": ["1", "x"]}]}', 'rules[0].experts has "x": write a number'],
    [
      '{"rules": [{"pin": "a", "experts": -1}]}',
      'rules[0].experts has "-1": write a number, a range like "3-8", or "*"',
    ],
  ])('%s', (text, sentence) => {
    expect(() => parseRules(text, 'rules.json')).toThrow(sentence)
  })

  test('layers and experts must be the model’s', () => {
    const space = { layers: [1, 2, 3], experts: 8 }
    checkRules(rulesOf({ replicate: 2, layers: '0-1', experts: '*' }), space)
    expect(() => checkRules(rulesOf({ replicate: 2 }, { replicate: 2, layers: 0 }), space)).toThrow(
      'rules[1].layers has "0", but the model has layers 1 to 3 with experts',
    )
    expect(() => checkRules(rulesOf({ pin: 'a', experts: ['1', '8-9'] }), space)).toThrow('rules[0].experts has "8-9"')
  })
})
