public class Main {
    static boolean isPrime(int n) {
        if (n < 2) return false;
        for (int i = 2; (long) i * i <= n; i++) {
            if (n % i == 0) return false;
        }
        return true;
    }

    public static void main(String[] args) {
        int count = 0;
        for (int n = 0; n < 3_000_000; n++) {
            if (isPrime(n)) count++;
        }
        System.out.println(count + " primes");
    }
}
