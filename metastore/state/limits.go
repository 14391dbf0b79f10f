package state

// What this build understands, and the bounds of the state. The bounds are part of the state machine: changing one that
// an entry can reach needs a feature level.
const (
	// MaxFeatureLevel is the highest feature level that this build can apply.
	MaxFeatureLevel = 3

	MaxPartitionsPerTopic    = 100_000
	MaxPartitions            = 1_000_000 // of all topics
	MaxTopicName             = 249       // bytes, as in Kafka
	MaxConfigs               = 512       // of one topic, and cluster-wide
	MaxAgents                = 4096      // joined at a time
	MaxListeners             = 32        // of an agent
	MaxAgentName             = 255       // bytes
	MaxDeparted              = 8192      // incarnations remembered after they left
	MaxDepartedNames         = 4096      // names of agents that are away and keep their node id
	MaxReplicas              = 64        // of one partition's assignment
	MaxProducersPerPartition = 5000
	keptProducers            = 4000 // after an eviction: one eviction serves many newcomers
	MaxReservedProducerIDs   = 1_000_000

	// Of consumer groups. MaxGroupBytes is for the ids, records and metadata of all of them together.
	MaxGroups          = 1_000_000
	MaxGroupID         = 1024 // bytes
	MaxGroupMembers    = 10_000
	MaxMemberID        = 1024       // bytes
	MaxGroupRecord     = 256 << 10  // bytes, of a group or a member
	MaxOffsetsPerGroup = 1_000_000  // partitions
	MaxGroupOffsets    = 10_000_000 // of all groups
	MaxOffsetMetadata  = 16 << 10   // bytes
	MaxGroupBytes      = 1 << 30

	// WindowBatches is how many of a producer's last batches are known exactly.
	WindowBatches = 5
	// HashRing is how far back HashAt reaches.
	HashRing = 4096
	// RetiredEpochs is for how many bumps of the collection epoch a retired object is remembered. What the collector has
	// not deleted by then is an orphan like any other.
	RetiredEpochs = 4
	maxListItems  = 1024 // of a config whose value is a list, where an op appends or subtracts
	// MaxRetired bounds them where the epoch does not move.
	MaxRetired = 1_000_000

	clockSlackMs    = 10_000  // how far a proposer's clock may be from the median
	producerIDBits  = 40      // of the counter; the log epoch is above
	acceptedKnown   = 1 << 30 // how far back an old sequence is told from a gap
	firstNodeID     = 1
	firstCollection = 1
	firstLevel      = 1
	rewriteLevel    = 3 // of merged objects, cleaned rows and their ages
)
