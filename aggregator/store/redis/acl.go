package redis

// ACL returns the rules of a Redis user who may do what a store does and no more, as ACL SETUSER takes them:
//
//	ACL SETUSER usaged on >password ~usage:* resetchannels -@all +eval +evalsha …
//
// With Sentinels, the user that the URL names for them needs +sentinel|get-master-addr-by-name, +sentinel|replicas,
// +sentinel|sentinels, +subscribe and &* there.
func ACL() []string {
	return []string{
		"~usage:*", "resetchannels", "-@all",
		"+eval", "+evalsha", // then what the scripts call
		"+type", "+exists", "+hmget", "+hset", "+hget", "+hlen", "+hexists", "+sismember", "+sadd", "+set", "+expireat", "+zadd", "+zmscore", "+zcard", "+zscore", "+time", "+pttl", "+hdel",
		"+hgetall", "+smembers", "+get", "+zrange", "+zunion", "+multi", "+exec", // reads
		"+info", "+ping", "+select", "+client|setname", // the connection
		"+cluster|slots", "+cluster|shards", "+readonly", "+asking", "+command", // a cluster
	}
}
