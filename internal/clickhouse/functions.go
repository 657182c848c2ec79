package clickhouse

import (
	"regexp"
	"strings"
)

// Unsteady tells whether a function, in small letters, answers otherwise each time, for each server, or for each block of rows.
func Unsteady(function string) bool { return unsteady[function] }

// ReadsOutside tells whether a function, in small letters, reads something else than its arguments.
func ReadsOutside(function string) bool { return outside.MatchString(function) }

// A test of internal/aggregate holds these against the engine's own list.
var unsteady = words(`now now64 nowinblock nowinblock64 today yesterday curdate current_date current_timestamp localtime localtimestamp utctimestamp utc_timestamp timezone servertimezone
	rand rand32 rand64 randbernoulli randbinomial randcanonical randchisquared randconstant randexponential randfisherf randlognormal randnegativebinomial randnormal randpoisson randstudentt
	randuniform randomfixedstring randomprintableascii randomstring randomstringutf8 fuzzbits fuzzquery generaterandomstructure generateserialid generatesnowflakeid generateuuidv4
	generateuuidv7 datetimetouuidv7 arraypartialreversesort arraypartialshuffle arraypartialsort arrayrandomsample arrayshuffle obfuscatequery
	blocknumber blockserializedsize blocksize rownumberinallblocks rownumberinblock neighbor runningaccumulate runningdifference runningdifferencestartingwithfirstvalue
	database schema fqdn authuser authenticateduser buildid chdb connectionid connection_id currentdatabase currentprofiles currentqueryid currentroles currentschemas currentuser
	current_database current_query_id current_schemas current_user defaultprofiles defaultroles enabledprofiles enabledroles displayname filesystemavailable filesystemcapacity
	filesystemunreserved fullhostname hostname getclienthttpheader getmacro getmergetreesetting getoskernelversion getserverport getserversetting getsetting getsettingordefault
	initialqueryid initialquerystarttime initial_query_id initial_query_start_time queryid query_id revision serveruuid session_user shardcount shardnum tcpport transactionid
	transactionlatestsnapshot transactionoldestsnapshot uptime user version zookeepersessionuptime
	dumpcolumnstructure isconstant lowcardinalityindices lowcardinalitykeys tocolumntypename __applyfilter sleep sleepeachrow throwif`)

func words(text string) map[string]bool {
	out := map[string]bool{}
	for _, w := range strings.Fields(text) {
		out[w] = true
	}
	return out
}

var outside = regexp.MustCompile(`^(dict[a-z0-9]+|joinget|joingetornull|file|hascolumnintable|catboostevaluate|naivebayesclassifier[a-z]*|timeseries[a-z]*tag[a-z]*|timeseriesidto[a-z]*|timeseriesgroupto[a-z]*|timeseriesthrow[a-z]*|region[a-z]+|ai[a-z]+)$`)
