import assert from 'node:assert/strict'
import { parentPort, workerData } from 'node:worker_threads'
import { type Balanced, balance, type Demand } from './balance.ts'
import { type Rules, wishesOf } from './rules.ts'

/** What balance needs, as plain data: `addresses` are the workers' names that the rules speak of. */
export type BalanceTask = Omit<Demand, 'wishes' | 'onProgress'> & { rules: Rules; addresses: readonly string[] }

/** Balancing a large model takes seconds of plain computation: it happens in a thread of its own. */
assert(parentPort, 'this file is the entry of a thread')
const { rules, addresses, ...demand } = workerData as BalanceTask
parentPort.postMessage(balance({ ...demand, wishes: wishesOf(rules, addresses) }) satisfies Balanced)
