// One member of a consumer group, with kafkajs: reads until its standard input ends and says what it sees as lines of JSON.
// usage: member.js BROKERS TOPIC GROUP
const { Kafka, logLevel } = require('kafkajs')

const [brokers, topic, group] = process.argv.slice(2)
const say = (event, more) => process.stdout.write(JSON.stringify({ event, ...more }) + '\n')

// It restarts by itself after errors that it holds to be temporary; what it gives up on is the end.
const kafka = new Kafka({
  clientId: 'kafkajs',
  brokers: brokers.split(','),
  logLevel: logLevel.ERROR,
  logCreator: () => ({ log }) => say('note', { text: `${log.message} ${log.error || ''}` }),
})
const consumer = kafka.consumer({ groupId: group })
let has = []
let read = new Map() // by partition, the next offset to be read of what is not committed
const lose = () => {
  if (has.length) say('revoked', { partitions: has })
  has = []
  read.clear()
}
consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
  lose()
  has = payload.memberAssignment[topic] || []
  say('assigned', { partitions: has })
})
consumer.on(consumer.events.REBALANCING, lose)
consumer.on(consumer.events.CRASH, ({ payload }) => {
  if (payload.restart) say('note', { text: `restarts: ${payload.error}` })
  else say('error', { text: `${payload.error}` })
})

// commitOffsets returns as if all were well where the consumer has stopped meanwhile; this event tells of what was answered.
consumer.on(consumer.events.COMMIT_OFFSETS, ({ payload }) => {
  for (const t of payload.topics) {
    for (const { partition, offset } of t.partitions) say('committed', { partition, offset: Number(offset) })
  }
})

async function commit() {
  const offsets = [...read], of = has
  read.clear()
  if (!offsets.length) return
  try {
    await consumer.commitOffsets(offsets.map(([partition, offset]) => ({ topic, partition, offset: String(offset) })))
  } catch (e) {
    say('note', { text: `commit: ${e}` })
    if (has !== of) return // another may have got on with them meanwhile
    // Tried again with the next, if nothing newer was read by then: nothing else would ever commit the last records.
    for (const [partition, offset] of offsets) if (!read.has(partition)) read.set(partition, offset)
  }
}

async function main() {
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  await consumer.run({
    autoCommit: false,
    eachBatchAutoResolve: false,
    eachBatch: async ({ batch, resolveOffset, heartbeat, isRunning, isStale }) => {
      for (const m of batch.messages) {
        if (!isRunning() || isStale()) break
        say('record', { partition: batch.partition, offset: Number(m.offset), number: Number(m.key) })
        resolveOffset(m.offset)
        read.set(batch.partition, Number(m.offset) + 1)
      }
      await heartbeat()
    },
  })
  let committing = Promise.resolve()
  const timer = setInterval(() => { committing = committing.then(commit) }, 250)
  process.stdin.resume()
  process.stdin.on('end', async () => {
    clearInterval(timer)
    await committing
    await commit()
    await consumer.disconnect()
    process.exit(0)
  })
}

main().catch((e) => {
  say('error', { text: `${e}` })
  process.exitCode = 1
})
